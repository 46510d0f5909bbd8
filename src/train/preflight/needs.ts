/** Memory and disk of a job beside what the machine has. */
import { existsSync, statfsSync } from 'node:fs'
import { totalmem } from 'node:os'
import { dirname } from 'node:path'
import { UserError } from '../../base/errors.ts'
import type { TrainingJob } from '../job.ts'
import type { JobData } from '../job-data.ts'
import { type DataShape, definitionOf, estimateMemory, type MemoryEstimate, weightBytesOf } from './memory.ts'

export interface Needs {
  memory: MemoryEstimate
  /** What the index over the data takes of `memory.processBytes`. */
  indexBytes: number
  /** What this process may have of memory, and what of it nobody has now. */
  memoryLimitBytes: number
  memoryFreeBytes: number
  disk: {
    /** Checkpoints that are kept, the best one, and the one that is being written. */
    bytes: number
    checkpointBytes: number
    freeBytes: number
  }
  warnings: string[]
}

export function dataShapeOf(data: JobData): DataShape {
  const { vocabularySize, bosToken, eosTokens } = data.kit.tokenizer
  return {
    tokens: { vocabularySize, bosToken, eosToken: eosTokens[0] },
    packed: data.packed,
    supervisedMax: data.supervisedMax,
    isEvaluated: data.validation !== undefined,
  }
}

/** Of the first of `processes` that train together. Throws a UserError where the weights alone are too many. */
export function needsOf(job: TrainingJob, data: JobData, processes = 1): Needs {
  const processBytes = process.memoryUsage.rss() + data.index.laterBytes
  const shape = dataShapeOf(data)
  refuseWeights(weightBytesOf(job, definitionOf(job, shape.tokens)))
  const memory = estimateMemory(job, shape, processBytes, processes)
  const texts = Object.values(data.kit.files).reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  // Weights and two moments lie in a checkpoint; gradients do not.
  const checkpointBytes = memory.snapshotBytes + texts
  const disk = {
    bytes: checkpointBytes * (job.checkpoint.keep + 2),
    checkpointBytes,
    freeBytes: freeBytesAt(job.out),
  }
  const needs: Needs = {
    memory,
    indexBytes: data.index.bytes,
    memoryLimitBytes: memoryLimit(),
    memoryFreeBytes: process.availableMemory() + memory.processBytes,
    disk,
    warnings: [],
  }
  return { ...needs, warnings: warningsOf(needs) }
}

/** Of the machine, or of the container that this process is in. */
function memoryLimit(): number {
  const constrained = process.constrainedMemory()
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem()
}

function freeBytesAt(path: string): number {
  let folder = path
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder)
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}

const size = (bytes: number) =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`

function warningsOf({ memory, memoryFreeBytes, disk }: Needs): string[] {
  const warnings: string[] = []
  if (memory.bytes > memoryFreeBytes)
    warnings.push(
      `The job needs about ${size(memory.bytes)} of memory, and ${size(memoryFreeBytes)} are free now.`,
    )
  if (disk.bytes > disk.freeBytes)
    warnings.push(
      `Checkpoints take about ${size(disk.bytes)}, and ${size(disk.freeBytes)} are free where they go.`,
    )
  return warnings
}

function refuseWeights(bytes: number): void {
  const limitBytes = memoryLimit()
  if (bytes <= limitBytes) return
  throw new UserError(
    `The model's weights alone take ${size(bytes)} of memory; this machine has ${size(limitBytes)}.`,
    { fix: 'Give a smaller model, or train an adapter beside a quantised one (method.lora.quantize).' },
  )
}

/** Throws a UserError for a job that the machine can never hold: the system would end it without a word. */
export function refuseTooLarge({ memory, memoryLimitBytes }: Needs): void {
  if (memory.bytes <= memoryLimitBytes) return
  const parts = [
    `weights ${size(memory.weightBytes)}`,
    `gradients and moments ${size(memory.learningBytes)}`,
    `activations ${size(memory.activationBytes)}`,
  ]
  throw new UserError(
    `The job needs about ${size(memory.bytes)} of memory (${parts.join(', ')}); this machine has ${size(memoryLimitBytes)}.`,
    {
      fix: 'Set recompute: true, lower batch and raise accumulate, shorten context, or train an adapter (method.lora).',
    },
  )
}
