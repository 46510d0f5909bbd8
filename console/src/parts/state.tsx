/** A state in a word and a colour. */
const tones: Readonly<Record<string, 'good' | 'bad' | 'busy' | 'calm'>> = {
  ...{ running: 'busy', preparing: 'busy', allocating: 'busy', stopping: 'busy', starting: 'busy' },
  ...{ success: 'good', ready: 'good', failed: 'bad', failing: 'bad', degraded: 'bad', deleting: 'busy' },
}

export function State({ name }: { name: string }) {
  return <span className={`state ${tones[name] ?? 'calm'}`}>{name}</span>
}
