/**
 * Adapters in the folder format of PEFT (github.com/huggingface/peft): adapter_config.json says how, and
 * adapter_model.safetensors holds two thin matrices per adapted product. With x [N, inputs], a product gives
 *
 *   LoRA (Hu 2021)    W x + scale * B (A x), scale = alpha / rank
 *   rsLoRA            the same with scale = alpha / sqrt(rank) (Kalajdzievski 2023)
 *   DoRA (Liu 2024)   magnitude / |W + scale * B A| * (W x + scale * B (A x)), one length per output row
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { readJsonFile, writeFileAtomic } from '../base/files.ts'
import { dequantize } from '../formats/convert.ts'
import { openSafetensors, type SafetensorsFile } from '../formats/safetensors.ts'
import { writeSafetensors } from '../formats/safetensors-write.ts'
import type { TensorToWrite } from '../formats/source.ts'
import { type AdapterSettings, adapterConfig, readAdapterSettings, scaleOf } from './adapter-config.ts'
import type { Definition } from './registry.ts'

export const adapterConfigName = 'adapter_config.json'
export const adapterWeightsName = 'adapter_model.safetensors'

/** What one product gains. */
export interface AdapterLayer {
  /** The product: its weight's name without `.weight`. */
  name: string
  inputs: number
  outputs: number
  rank: number
  scale: number
  /** [rank, inputs] */
  a: Float32Array
  /** [outputs, rank] */
  b: Float32Array
  /** [outputs], with DoRA only. */
  magnitude: Float32Array | undefined
}

export interface Adapter {
  settings: AdapterSettings
  /** By name of the product. */
  layers: ReadonlyMap<string, AdapterLayer>
}

/** True for a folder that holds an adapter rather than a whole model. */
export function isAdapterFolder(path: string): boolean {
  return existsSync(join(path, adapterConfigName))
}

/** The products that an adapter may change, with their sizes; the head and experts are not among them. */
export function adaptableProducts({ architecture, config }: Definition): Map<string, [number, number]> {
  const shapes = new Map(architecture.parameters(config).map((spec) => [spec.name, spec]))
  const products = new Map<string, [number, number]>()
  for (const name of architecture.products(config).flatMap((group) => group.names)) {
    const spec = shapes.get(`${name}.weight`)!
    const isHead = spec.role !== 'product' || name === 'lm_head'
    if (!isHead && spec.experts === undefined) products.set(name, [spec.shape[0]!, spec.shape[1]!])
  }
  return products
}

/** Name under which PEFT stores a part of the adapter of product `name`. */
export function adapterTensorName(name: string, part: 'a' | 'b' | 'magnitude'): string {
  return `${prefix}${name}.${suffixes[part]}`
}

const prefix = 'base_model.model.'
const suffixes = { a: 'lora_A.weight', b: 'lora_B.weight', magnitude: 'lora_magnitude_vector' } as const

/**
 * Reads the adapter in `folder`, made for the model of `definition`. Throws UserErrors that name the file and
 * the field or tensor: for adapters of other kinds, for other models, and for files that are not whole.
 */
export function readAdapter(folder: string, definition: Definition): Adapter {
  if (!isAdapterFolder(folder)) {
    throw new UserError(`${folder} holds no adapter: there is no ${adapterConfigName} in it.`, {
      fix: `Give the folder that holds ${adapterConfigName} and ${adapterWeightsName}, not one above it.`,
    })
  }
  const settings = readAdapterSettings(
    join(folder, adapterConfigName),
    readJsonFile(join(folder, adapterConfigName)),
  )
  using file = openSafetensors(join(folder, adapterWeightsName))
  const products = adaptableProducts(definition)
  const layers = new Map<string, AdapterLayer>()
  for (const stored of file.names()) {
    const name = productOf(file, stored)
    const shape = products.get(name)
    if (shape === undefined && isOfMixture(definition, name))
      throw new UserError(
        `${file.path} adapts ${name}: adapters of experts, and of what chooses them, are not built.`,
        {
          fix: 'Merge that adapter into its model with PEFT (merge_and_unload), or train one of attention alone (q_proj, k_proj, v_proj, o_proj).',
        },
      )
    if (shape === undefined) {
      throw new UserError(
        `${file.path} adapts ${name}, which is no product inside the layers of this ${definition.config.modelType} model.`,
        { fix: 'Use the base model that the adapter was trained on.' },
      )
    }
    if (!layers.has(name)) layers.set(name, readLayer(file, settings, name, shape))
  }
  if (layers.size === 0) throw new UserError(`${file.path} holds no adapter.`)
  return { settings, layers }
}

/** Whether PEFT means a part of a mixture of experts, however transformers of that time called it. */
function isOfMixture({ config }: Definition, name: string): boolean {
  return (
    config.mixture !== undefined &&
    /\.(mlp|block_sparse_moe)\.(gate|experts|router|input_linear|output_linear)\b/.test(name)
  )
}

function productOf(file: SafetensorsFile, stored: string): string {
  const suffix = Object.values(suffixes).find((ending) => stored.endsWith(`.${ending}`))
  if (suffix === undefined || !stored.startsWith(prefix)) {
    throw new UserError(`${file.path} holds ${stored}, which is no part of a LoRA adapter of a product.`, {
      fix: 'Adapters of embeddings, and modules that were saved whole, are not built; merge that adapter into its model instead.',
    })
  }
  return stored.slice(prefix.length, -suffix.length - 1)
}

function readLayer(
  file: SafetensorsFile,
  settings: AdapterSettings,
  name: string,
  [outputs, inputs]: [number, number],
): AdapterLayer {
  const rank = file.info(adapterTensorName(name, 'a'))?.shape[0] ?? 0
  const magnitudeName = adapterTensorName(name, 'magnitude')
  if (settings.dora !== (file.info(magnitudeName) !== undefined)) {
    const [says, has] = settings.dora ? ['use_dora', 'no'] : ['no use_dora', 'a']
    throw new UserError(`${file.path}: ${adapterConfigName} says ${says}, but ${name} has ${has} magnitude.`)
  }
  return {
    name,
    inputs,
    outputs,
    rank,
    scale: scaleOf(settings, name, rank),
    a: readFloats(file, adapterTensorName(name, 'a'), [rank, inputs]),
    b: readFloats(file, adapterTensorName(name, 'b'), [outputs, rank]),
    magnitude: settings.dora ? readFloats(file, magnitudeName, [outputs]) : undefined,
  }
}

function readFloats(file: SafetensorsFile, name: string, shape: readonly number[]): Float32Array {
  const info = file.info(name)
  if (info === undefined) throw new UserError(`${file.path} has no tensor ${name}.`)
  if (info.shape.join() !== shape.join() || shape.includes(0)) {
    throw new UserError(
      `${file.path}: ${name} has shape [${info.shape}]; the model and the rank ask for [${shape}].`,
      { fix: 'Use the base model that the adapter was trained on.' },
    )
  }
  const bytes = new Uint8Array(info.bytes)
  file.read(name, bytes)
  const values = dequantize(info.dtype, bytes)
  if (!values.every(Number.isFinite))
    throw new UserError(`${file.path}: ${name} holds a number that is not finite.`)
  return values
}

/** Writes `adapter` so that PEFT loads it; `definition` is its base model's. */
export function writeAdapter(folder: string, adapter: Adapter, definition: Definition): void {
  writeFileAtomic(join(folder, adapterConfigName), adapterConfigText(adapter.settings, definition))
  const tensors = [...adapter.layers.values()].flatMap((layer): TensorToWrite[] => {
    const { name, inputs, outputs, rank, a, b, magnitude } = layer
    const entry = (part: 'a' | 'b' | 'magnitude', shape: readonly number[], values: Float32Array) => ({
      name: adapterTensorName(name, part),
      dtype: 'F32' as const,
      shape,
      data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    })
    const pair = [entry('a', [rank, inputs], a), entry('b', [outputs, rank], b)]
    return magnitude === undefined ? pair : [...pair, entry('magnitude', [outputs], magnitude)]
  })
  writeSafetensors(join(folder, adapterWeightsName), tensors, { format: 'pt' })
}

/** The content of adapter_config.json. */
export function adapterConfigText(settings: AdapterSettings, definition: Definition): string {
  const transposed = definition.architecture.parameters(definition.config).some((spec) => spec.transposed)
  return `${JSON.stringify(adapterConfig(settings, transposed), null, 2)}\n`
}
