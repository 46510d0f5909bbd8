/**
 * A model on disk, whatever its layout: what it is (definition) and where its tensors are, under the names
 * of Hugging Face checkpoints.
 */
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { readJsonFile } from '../base/files.ts'
import { type GgufSource, openGguf } from '../formats/gguf.ts'
import { configFromGguf } from '../formats/gguf-config.ts'
import { ggufAdded, ggufRowPermutation, huggingFaceToGguf } from '../formats/gguf-names.ts'
import { openModelFolder } from '../formats/model-folder.ts'
import type { TensorInfo, TensorSource } from '../formats/source.ts'
import { StackedTensors } from '../formats/stacked-source.ts'
import type { ParameterSpec } from './architecture.ts'
import { type Definition, defineModel } from './registry.ts'
import { stacksOf } from './stored-tensors.ts'

export interface OpenModel extends Disposable {
  readonly path: string
  readonly definition: Definition
  /** config.json, or what a GGUF file says in its place. */
  readonly config: Record<string, unknown>
  readonly metadata: GgufSource['metadata'] | undefined
  info(name: string): TensorInfo | undefined
  read(name: string, into: Uint8Array, offset?: number): void
  /** True when the file holds the transpose of the parameter. */
  transposed(name: string): boolean
  /** For each row of the tensor, the row of the file that holds it; undefined keeps the order. */
  rowOrder(name: string): Int32Array | undefined
}

/** Opens a Hugging Face folder or a GGUF file. Throws UserErrors that name the file and the field. `context` as defineModel has it. */
export function openModel(path: string, context?: number): OpenModel {
  if (!existsSync(path)) {
    throw new UserError(`There is no model at ${path}.`, {
      failure: 'not_found',
      fix: 'Give a folder with config.json and model.safetensors, or a .gguf file.',
    })
  }
  return statSync(path).isDirectory() ? openFolder(path, context) : openGgufModel(path, context)
}

function openFolder(path: string, context: number | undefined): OpenModel {
  const config = readJsonFile(join(path, 'config.json'))
  const definition = defineModel(config, context)
  const files = openModelFolder(path)
  const source = definition.architecture.read?.(files, definition.config) ?? files
  const stored = storedNames(source, definition)
  const parameters = definition.architecture.parameters(definition.config)
  const turned = new Set(parameters.filter(({ transposed }) => transposed).map(({ name }) => name))
  const stacked = new StackedTensors(source, stacksOf(parameters, stored))
  return {
    path,
    definition,
    config,
    metadata: undefined,
    info: (name) => (stacked.has(name) ? stacked.info(name) : source.info(stored(name))),
    read: (name, into, offset) =>
      stacked.has(name) ? stacked.read(name, into, offset) : source.read(stored(name), into, offset),
    transposed: (name) => turned.has(name),
    rowOrder: () => undefined,
    [Symbol.dispose]: () => source[Symbol.dispose](),
  }
}

/**
 * GPT-2's original checkpoints, and those of networks without a head (embedding models), leave out what stands in front.
 * Those of models that also see have more there, once before it and since transformers 4.52 behind it.
 */
function storedNames(source: TensorSource, definition: Definition): (name: string) => string {
  const [front, embedding] =
    definition.config.modelType === 'gpt2'
      ? ['transformer.', 'wte.weight']
      : ['model.', 'embed_tokens.weight']
  const others = ['', 'language_model.model.', 'model.language_model.']
  const stored = others.find((other) => source.info(other + embedding) !== undefined)
  if (stored === undefined) return (name) => name
  return (name) => (name.startsWith(front) ? stored + name.slice(front.length) : name)
}

function openGgufModel(path: string, context: number | undefined): OpenModel {
  const source = openGguf(path)
  try {
    const config = configFromGguf(source)
    const definition = defineModel(config, context)
    const architecture = String(source.metadata.get('general.architecture'))
    const stored = (name: string) => huggingFaceToGguf(architecture, name) ?? name
    const experts = definition.architecture.parameters(definition.config).map(inOneTensor)
    const stacked = new StackedTensors(source, stacksOf(experts, stored))
    return {
      path,
      definition,
      config,
      metadata: source.metadata,
      info: (name) => (stacked.has(name) ? stacked.info(name) : source.info(stored(name))),
      read: (name, into, offset) => {
        if (stacked.has(name)) stacked.read(name, into, offset)
        else source.read(stored(name), into, offset)
        if (ggufAdded(architecture, name) === 1) lessOne(source.info(stored(name))!, path, into)
      },
      // GGUF's converters turn GPT-2's products into [outputs, inputs].
      transposed: () => false,
      rowOrder: (name) => ggufRowPermutation(architecture, name, config),
      [Symbol.dispose]: () => source[Symbol.dispose](),
    }
  } catch (error) {
    source[Symbol.dispose]()
    throw error
  }
}

/** GGUF has one tensor for all experts of a product: [E, F, W]. */
function inOneTensor({ name, shape, experts }: ParameterSpec): Pick<ParameterSpec, 'name' | 'parts'> {
  if (experts === undefined) return { name }
  const [rows, width] = shape as [number, number]
  return { name, parts: [{ name, shape: [experts, rows / experts, width], row: 0, rows }] }
}

function lessOne({ dtype }: TensorInfo, path: string, bytes: Uint8Array): void {
  if (dtype !== 'F32')
    throw new UserError(`${path} holds norms in ${dtype}.`, {
      fix: 'Convert it again: norms are F32 in GGUF.',
    })
  const values = new Float32Array(bytes.slice().buffer)
  bytes.set(new Uint8Array(values.map((value) => value - 1).buffer))
}
