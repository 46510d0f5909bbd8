/**
 * The checkpoints in a job's output folder: `checkpoints/step-NNNNNN`, each with a manifest that names the size and
 * SHA-256 of every file. Two kinds of manifest are read: the SDKs' (ropeway.json) and our trainer's (trainer.json).
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join, resolve, sep } from 'node:path'
import { z } from 'zod'
import { messageOf, UserError } from '../../base/errors.ts'
import { hashOfLargeFile } from '../../base/files.ts'

const manifest = z.object({
  files: z.record(z.string(), z.object({ bytes: z.int().min(0), sha256: z.string() })),
})
const withBest = z.object({ best: z.object({ step: z.int() }).optional() })
const trainerManifest = 'trainer.json'
const manifestNames = ['ropeway.json', trainerManifest]
const namePattern = /^step-(\d{6,15})$/

export interface OutputCheckpoint {
  step: number
  folder: string
}

/** Where the checkpoint of a step lies, or would. */
export function checkpointFolder(output: string, step: number): string {
  return join(output, 'checkpoints', `step-${String(step).padStart(6, '0')}`)
}

/** Oldest first; whether they are whole is another question. */
export function listCheckpoints(output: string): OutputCheckpoint[] {
  const root = join(output, 'checkpoints')
  if (!existsSync(root)) return []
  return readdirSync(root)
    .flatMap((name) => {
      const match = namePattern.exec(name)
      return match === null ? [] : [{ step: Number(match[1]), folder: join(root, name) }]
    })
    .sort((a, b) => a.step - b.step)
}

/** The newest whole checkpoint; `onDamaged` hears of every newer one that is not. */
export async function newestWhole(
  output: string,
  onDamaged: (folder: string, reason: string) => void,
): Promise<OutputCheckpoint | undefined> {
  for (const checkpoint of listCheckpoints(output).reverse()) {
    const reason = await whatIsDamaged(checkpoint.folder)
    if (reason === undefined) return checkpoint
    onDamaged(checkpoint.folder, reason)
  }
  return undefined
}

export interface CheckpointManifest {
  /** Of its own file. */
  readonly name: string
  readonly files: Readonly<Record<string, { bytes: number; sha256: string }>>
}

/** What a checkpoint says that it holds; undefined without a manifest. Throws a UserError for one that cannot be. */
export function readManifest(folder: string): CheckpointManifest | undefined {
  const name = manifestNames.find((one) => existsSync(join(folder, one)))
  if (name === undefined) return undefined
  let files: CheckpointManifest['files']
  try {
    files = manifest.parse(JSON.parse(readFileSync(join(folder, name), 'utf8'))).files
  } catch (error) {
    throw new UserError(`${name} cannot be read: ${messageOf(error)}`)
  }
  const outside = Object.keys(files).find(
    (file) => !resolve(folder, file).startsWith(`${resolve(folder)}${sep}`),
  )
  if (outside !== undefined) throw new UserError(`${outside} lies outside of the checkpoint`)
  return { name, files }
}

/**
 * The step of the best evaluation until the checkpoint in `folder`, if there was one; undefined when that is not a
 * checkpoint of our trainer, or not any more.
 */
export function bestUntil(folder: string): { best: number | undefined } | undefined {
  const path = join(folder, trainerManifest)
  if (!existsSync(path)) return undefined
  try {
    return { best: withBest.parse(JSON.parse(readFileSync(path, 'utf8'))).best?.step }
  } catch {
    return undefined
  }
}

/** Undefined when every file has the size and the content that were saved. */
export async function whatIsDamaged(folder: string): Promise<string | undefined> {
  let found: CheckpointManifest | undefined
  try {
    found = readManifest(folder)
  } catch (error) {
    return messageOf(error)
  }
  if (found === undefined) return 'it has no manifest'
  for (const [file, { bytes, sha256 }] of Object.entries(found.files)) {
    const path = resolve(folder, file)
    if (!existsSync(path)) return `${file} is missing`
    if (statSync(path).size !== bytes) return `${file} has ${statSync(path).size} bytes instead of ${bytes}`
    if ((await hashOfLargeFile(path)) !== sha256) return `${file} does not have the content that was saved`
  }
  return undefined
}
