interface Line {
  request: string
  call?: string
  prompt: number
  output: number
}

/**
 * What the usage logs of engines add up to. An answer that went from one engine to another has a line in both; the
 * one with the most output holds all of it.
 */
export function sumOfEngineLogs(texts: readonly string[]) {
  const calls = new Map<string, Line>()
  for (const text of texts) {
    for (const written of text.split('\n').filter((line) => line.endsWith('}'))) {
      const line = JSON.parse(written) as Line
      const id = line.call ?? line.request
      const known = calls.get(id)
      if (known === undefined || line.output > known.output) calls.set(id, line)
    }
  }
  const lines = [...calls.values()].filter(({ prompt, output }) => prompt + output > 0)
  return {
    requests: lines.length,
    prompt: lines.reduce((sum, line) => sum + line.prompt, 0),
    output: lines.reduce((sum, line) => sum + line.output, 0),
  }
}
