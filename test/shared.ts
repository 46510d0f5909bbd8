import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const repository = join(dirname(fileURLToPath(import.meta.url)), '..')
const candidates = [
  process.env.ROPEWAY_SHARED_DATA,
  join(repository, '..', 'shared', 'data'),
  join(repository, 'shared', 'data'),
]

/** Path of a file in the shared test data, or undefined where it is absent; the reason is printed once. */
export function sharedData(...parts: string[]): string | undefined {
  const root = candidates.find((folder) => folder !== undefined && existsSync(folder))
  const path = root === undefined ? undefined : join(root, ...parts)
  if (path !== undefined && existsSync(path)) return path
  console.warn(`skipped: shared test data ${parts.join('/')} is not on this machine`)
  return undefined
}
