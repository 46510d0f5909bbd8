/**
 * Hands a run's offline files to the user's own `wandb sync`, which knows their key: from WANDB_API_KEY in this process's
 * environment, or from their login. Ropeway never reads it, and what the program prints is kept without it.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { appendFile } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf } from '../../base/errors.ts'

/** Folders of one call: the lives of a run that were not uploaded. */
const foldersMax = 100

/** Those of a run's lives that the program has not marked as uploaded, in order of their beginning. */
export function unsynced(out: string, run: string): string[] {
  const root = join(out, 'wandb')
  if (!existsSync(root)) return []
  return readdirSync(root)
    .filter((name) => name.startsWith('offline-run-') && name.endsWith(`-${run}`))
    .filter((name) => !existsSync(join(root, name, `run-${run}.wandb.synced`)))
    .sort()
    .slice(-foldersMax)
    .map((name) => join(root, name))
}

/** A run's files are uploaded within this time, or later by hand. */
const syncMs = 120_000
/** Of what the program prints, so much is kept. */
const printedMax = 64 << 10

/** Resolves to what went wrong, or to undefined. Never throws: a run does not fail for it. */
export async function syncToWandb(
  folders: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  const log = join(folders.at(-1)!, 'sync.log')
  try {
    const child = spawn('wandb', ['sync', ...folders], {
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
