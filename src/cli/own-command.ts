import { fileURLToPath } from 'node:url'
import { runnerOf } from '../base/processes.ts'

/** How this program is started: from the sources, or as it was built. */
export function ownCommand(): string[] {
  const suffix = import.meta.url.endsWith('.ts') ? '.ts' : '.js'
  const main = fileURLToPath(new URL(`./main${suffix}`, import.meta.url))
  return [process.execPath, ...runnerOf(main), main]
}
