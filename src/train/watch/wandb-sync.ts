/**
 * Hands a run's offline files to the user's own `wandb sync`, which knows their key: from WANDB_API_KEY in this process's
 * environment, or from their login. Ropeway never reads it, and what the program prints is kept without it.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf } from '../../base/errors.ts'

/** A run's files are uploaded within this time, or later by hand. */
const syncMs = 120_000
/** Of what the program prints, so much is kept. */
const printedMax = 64 << 10

/** Resolves to what went wrong, or to undefined. Never throws: a run does not fail for it. */
export async function syncToWandb(
  folder: string,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  const log = join(folder, 'sync.log')
  try {
    const child = spawn('wandb', ['sync', folder], {
      env: { ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: syncMs,
    })
    let printed = ''
    const keep = (piece: unknown) => {
      if (printed.length < printedMax) printed += String(piece)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
    await appendFile(log, withoutKey(printed, environment.WANDB_API_KEY), { mode: 0o600 })
    return code === 0 ? undefined : `${signal ?? `exit code ${code}`}; see ${log}`
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT'
    return missing ? 'there is no program wandb here' : messageOf(error)
  }
}

function withoutKey(text: string, key: string | undefined): string {
  return key === undefined || key === '' ? text : text.replaceAll(key, '[key]')
}
