/**
 * Checkpoints: one folder per step that holds a model (or a PEFT adapter) as others open it, plus what training
 * needs to go on.
 *
 * A folder is written (checkpoint-save.ts) under a temporary name, synced and renamed, so it exists whole or not at all. Its
 * trainer.json names the size and SHA-256 of every other file; a folder that does not match is not used.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf } from '../base/errors.ts'
import { hashing } from '../base/files.ts'
import { atOnce, type Steps } from '../base/pauses.ts'
import { openSafetensors } from '../formats/safetensors.ts'
import type { TensorSource } from '../formats/source.ts'
import { StackedTensors } from '../formats/stacked-source.ts'
import { stacksOf } from '../models/stored-tensors.ts'
import type { Parameters } from './parameters.ts'
import type { GuardState } from './step-guard.ts'

/** What a run has to remember besides weights and moments. */
export interface TrainerState {
  /** Steps that are done; the next one has this number. */
  stepsDone: number
  /** What the run computes: everything that changes the weights. A resume must agree with it. */
  recipe: Record<string, unknown>
  /** SHA-256 of the training tokens. */
  dataHash: string
  best: { step: number; loss: number } | undefined
  /** The step after which was evaluated last. */
  evaluated?: number | undefined
  /** What was seen of bad steps. */
  guard?: GuardState | undefined
  /** The frozen model, where an adapter is trained. */
  base?: { path: string; sha256: string } | undefined
}

export interface Manifest extends TrainerState {
  format: 1
  files: Record<string, { bytes: number; sha256: string }>
}

export const manifestName = 'trainer.json'
const namePattern = /^step-(\d{6,})$/

export function stepFolderName(stepsDone: number): string {
  return `step-${String(stepsDone).padStart(6, '0')}`
}

/** The manifest with its own hash as last field: a damaged one does not pass for another. */
export function sealed(manifest: Manifest): string {
  return JSON.stringify({ ...manifest, seal: sealOf(manifest) }, null, 2)
}

function sealOf(manifest: Manifest): string {
  return createHash('sha256').update(JSON.stringify(manifest)).digest('hex')
}

/** [rows, columns] as [columns, rows]. */
function turned(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length)
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = values[row * columns + column]!
  return out
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

export interface FoundCheckpoint {
  folder: string
  state: TrainerState
}

/** The newest whole checkpoint under `root` of fewer steps than `before`; `onDamaged` hears of every newer one that is not. */
export function newestCheckpoint(
  root: string,
  onDamaged: (folder: string, reason: string) => void,
  before?: number,
): FoundCheckpoint | undefined {
  return atOnce(findingCheckpoint(root, onDamaged, before))
}

/** The same in steps of a megabyte. */
export function* findingCheckpoint(
  root: string,
  onDamaged: (folder: string, reason: string) => void,
  before = Number.POSITIVE_INFINITY,
): Steps<FoundCheckpoint | undefined> {
  for (const name of checkpointNames(root).reverse()) {
    if (stepOf(name) >= before) continue
    const folder = join(root, name)
    try {
      return { folder, state: yield* verifying(folder) }
    } catch (error) {
      onDamaged(folder, messageOf(error))
    }
  }
  return undefined
}

/** Names of checkpoint folders, oldest first. */
export function checkpointNames(root: string): string[] {
  if (!existsSync(root)) return []
  const names = readdirSync(root).filter((name) => namePattern.test(name))
  return names.sort((a, b) => stepOf(a) - stepOf(b))
}

/** Of a checkpoint folder's name. */
export function stepOf(name: string): number {
  return Number(namePattern.exec(name)![1])
}

/**
 * Why the weights of the checkpoint in `folder` are not what was saved; undefined where they are, or where no manifest
 * says what was: a model from elsewhere. Texts (a template, a default) are the user's to change.
 */
export function damagedWeightsIn(folder: string): string | undefined {
  return atOnce(findingDamage(folder))
}

/** The same in steps: sizes in the first one, then contents by the megabyte. */
export function* findingDamage(folder: string): Steps<string | undefined> {
  if (!existsSync(join(folder, manifestName))) return undefined
  try {
    yield* verifying(folder, isWeights)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

const isWeights = (name: string) => name.endsWith('.safetensors') && name !== 'optimizer.safetensors'

const otherContent = (name: string) => `${name} does not have the content that was saved`

function* verifying(folder: string, concerns = (_name: string) => true): Steps<TrainerState> {
  const { files, format, best, ...state } = readManifest(join(folder, manifestName))
  if (format !== 1)
    throw new Error(`${manifestName} has format ${String(format)}, which this version does not read`)
  const hashes: [name: string, sha256: string][] = []
  for (const [name, { bytes, sha256 }] of Object.entries(files)) {
    if (!concerns(name)) continue
    const path = join(folder, name)
    if (!existsSync(path)) throw new Error(`${name} is missing`)
    if (statSync(path).size !== bytes)
      throw new Error(`${name} has ${statSync(path).size} bytes instead of ${bytes}`)
    hashes.push([name, sha256])
  }
  for (const [name, sha256] of hashes) {
    if ((yield* hashing(join(folder, name))) !== sha256) throw new Error(otherContent(name))
  }
  // Earlier versions took a loss that is no number, which JSON writes as null, and nothing is less than that.
  return { ...state, best: Number.isFinite(best?.loss) ? best : undefined }
}

function readManifest(path: string): Manifest {
  const { seal, ...manifest } = JSON.parse(readFileSync(path, 'utf8')) as Manifest & { seal: string }
  if (seal !== sealOf(manifest)) throw new Error(otherContent(manifestName))
  return manifest
}

/** Puts a checkpoint's weights and moments into `parameters` of the same model and method. */
export function restore(folder: string, parameters: Parameters): void {
  atOnce(restoring(folder, parameters))
}

/** The same in steps of a parameter. */
export function* restoring(folder: string, parameters: Parameters): Steps<void> {
  using file = openSafetensors(join(folder, parameters.saved.weightsName))
  const { architecture, config } = parameters.definition
  const model = architecture.read?.(file, config) ?? file
  using moments = openSafetensors(join(folder, 'optimizer.safetensors'))
  const stacked = new StackedTensors(model, stacksOf(parameters.all.map(({ spec }) => spec)))
  for (const [index, parameter] of parameters.all.entries()) {
    const { spec, weight } = parameter
    const read = (source: Pick<TensorSource, 'read'>, name: string) => {
      const values = new Float32Array(weight.size)
      source.read(name, bytesOf(values))
      return values
    }
    const stored = read(stacked.has(spec.name) ? stacked : model, spec.name)
    const [outputs, inputs] = spec.shape as [number, number]
    weight.write(spec.transposed ? turned(stored, inputs, outputs) : stored)
    yield
    if (!parameters.ownsMoments(index)) continue
    parameter.mean.write(read(moments, `mean.${spec.name}`))
    parameter.square.write(read(moments, `square.${spec.name}`))
  }
}

/**
 * Removes all but the newest `keep` checkpoints until `stepsDone`, which was just written, and the one of `bestStep`.
 * Those of later steps are of a life whose end was lost: they neither count nor go.
 */
export function pruneCheckpoints(
  root: string,
  keep: number,
  { stepsDone, bestStep }: { stepsDone: number; bestStep: number | undefined },
): void {
  const names = checkpointNames(root).filter((name) => stepOf(name) <= stepsDone)
  for (const name of names.slice(0, Math.max(0, names.length - keep))) {
    if (bestStep !== undefined && name === stepFolderName(bestStep)) continue
    // Renamed first, so that a folder that is half gone never looks like a checkpoint.
    const doomed = join(root, `.${name}.old.tmp`)
    renameSync(join(root, name), doomed)
    rmSync(doomed, { recursive: true, force: true })
  }
}

/**
 * Gives a damaged checkpoint a name that nobody takes for one, and returns it: as the newest it would be served, and
 * between those that the run makes from now on it would stand in the place of a whole one.
 */
export function setAside(folder: string): string {
  for (let number = 1; ; number++) {
    const aside = number === 1 ? `${folder}.damaged` : `${folder}.damaged-${number}`
    if (existsSync(aside)) continue
    renameSync(folder, aside)
    return aside
  }
}

/** What an interrupted save or prune left behind. */
export function removeLeftovers(root: string): void {
  if (!existsSync(root)) return
  for (const name of readdirSync(root)) {
    if (/^\.step-\d+(\.old)?\.tmp$/.test(name)) rmSync(join(root, name), { recursive: true, force: true })
  }
}
