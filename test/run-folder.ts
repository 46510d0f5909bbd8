import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'

declare module 'vitest' {
  interface ProvidedContext {
    runFolder: string
  }
}

/** A folder for what is expensive to make and the same for all test files (`inject('runFolder')`); gone when the run is over. */
export default function setup(project: TestProject): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-run-'))
  // Other users, as whom servers run, go through it.
  chmodSync(folder, 0o755)
  project.provide('runFolder', folder)
  return () => rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
}
