import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A folder that `afterwards` removes. */
export function temporaryFolder(name: string, afterwards: (clean: () => void) => void): string {
  const folder = mkdtempSync(join(tmpdir(), `ropeway-${name}-`))
  afterwards(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))
  return folder
}
