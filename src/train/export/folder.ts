/** Exports as folders that transformers and PEFT load. */
import { copyFileSync, existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { DType } from '../../base/dtype.ts'
import { writeFileAtomic } from '../../base/files.ts'
import { writeSafetensors } from '../../formats/safetensors-write.ts'
import type { TensorToWrite } from '../../formats/source.ts'
import { writeAdapter } from '../../models/adapter.ts'
import { ropesOf } from '../../models/gemma3.ts'
import { encodeRows } from '../../models/rows.ts'
import { storedTensors } from '../../models/stored-tensors.ts'
import { loadGgml } from '../../runtime/ffi.ts'
import { textFileNames } from '../text-kit.ts'
import type { ExportSource } from './source.ts'

const torchNames = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' } as const
export type FloatType = keyof typeof torchNames

/** Hugging Face's layout: config.json, model.safetensors, tokenizer and template. */
export function writeModelFolder(folder: string, source: ExportSource, type: FloatType): void {
  mkdirSync(folder, { recursive: true })
  const { architecture, config: parsed } = source.model.definition
  const config = bothSpellings(parsed.source, torchNames[type])
  writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
  const parameters = storedTensors(source.specs).map(
    ({ name, shape, pieces }): TensorToWrite => ({
      name,
      dtype: type,
      shape,
      data: function* () {
        for (const { spec, row, rows } of pieces) {
          const [first, second] = spec.shape as [number, number]
          const values = rows === first ? source.floats(spec) : source.floats(spec, { row, rows })
          yield encoded(spec.transposed === true ? transposed(values, first, second) : values, type)
        }
      },
    }),
  )
  const tensors = architecture.written?.(parameters, parsed) ?? parameters
  writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' })
  copyTextFiles(source, folder)
}

/** PEFT's layout. */
export function writeAdapterFolder(folder: string, source: ExportSource): void {
  mkdirSync(folder, { recursive: true })
  writeAdapter(folder, source.adapter!, source.model.definition)
  copyTextFiles(source, folder)
}

function copyTextFiles(source: ExportSource, folder: string): void {
  for (const name of textFileNames) {
    const from = join(textFolder(source), name)
    if (existsSync(from)) copyFileSync(from, join(folder, name))
  }
}

/** Where the tokenizer lies: with the adapter when it has one of its own, else with the model. */
export function textFolder(source: ExportSource): string {
  return existsSync(join(source.path, 'tokenizer.json')) ? source.path : source.model.path
}

function encoded(values: Float32Array, type: DType): Uint8Array {
  return encodeRows(loadGgml(), values, type, 1, values.length)
}

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length)
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = values[row * columns + column]!
  return out
}

/**
 * transformers 5 renamed fields: torch_dtype is dtype, and rope_theta with rope_scaling became rope_parameters.
 * Both spellings are written, so that older and newer versions load the same model; but for those whose layers turn in different
 * ways, where the older one is read by both.
 */
export function bothSpellings(config: Record<string, unknown>, dtype: string): Record<string, unknown> {
  const changed: Record<string, unknown> = { ...config, dtype, torch_dtype: dtype }
  if (config.model_type === 'gemma3_text') return { ...changed, ...gemma3Ropes(config) }
  const newer = config.rope_parameters as Record<string, unknown> | undefined | null
  const older = config.rope_scaling as Record<string, unknown> | undefined | null
  const theta = newer?.rope_theta ?? config.rope_theta
  if (theta === undefined || config.model_type === 'olmo3') return changed
  const all: Record<string, unknown> = { rope_type: 'default', ...older, ...newer }
  const { rope_theta: _, ...scaling } = all
  return {
    ...changed,
    rope_theta: theta,
    rope_scaling: scaling.rope_type === 'default' ? null : scaling,
    rope_parameters: { ...scaling, rope_theta: theta },
  }
}

function gemma3Ropes(config: Record<string, unknown>): Record<string, unknown> {
  const { full_attention: full, sliding_attention: sliding } = ropesOf(config)
  const { rope_theta, ...scaling } = full
  return {
    rope_theta,
    rope_scaling: scaling.rope_type === 'default' ? null : scaling,
    rope_local_base_freq: sliding.rope_theta,
    rope_parameters: { full_attention: full, sliding_attention: sliding },
  }
}
