/**
 * Weights of products in the layout that our kernels read (native/packed.h). They are packed while loading, a
 * few rows at a time, and the file's own layout of them is never in memory.
 */
import type { DType } from '../base/dtype.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Interleave, Kernels, PackedFormat } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { ProductGroup } from './architecture.ts'
import type { OpenModel } from './open.ts'
import { keptDtype, rowsOf, vectorOf } from './rows.ts'

export interface PackedProduct {
  group: ProductGroup
  format: PackedFormat
  /** The number format that was packed. */
  dtype: DType
  /** The packed bytes. */
  weight: Tensor
  /** [outputs] F32, zero where a member has none; absent when none has one. */
  bias: Tensor | undefined
  inputs: number
  /** Columns of the result, gaps between members included. */
  outputs: number
  /** First column and number of columns of each member of a joined group. */
  members: readonly { name: string; first: number; outputs: number }[]
}

/** Members of a joined group begin at a whole panel. */
const panelOutputs = 16

export class PackedWeights implements Disposable {
  readonly bytes: number
  readonly #arena: Arena
  readonly #products: ReadonlyMap<string, PackedProduct>

  constructor(arena: Arena, products: readonly PackedProduct[], bytes: number) {
    this.#arena = arena
    this.#products = new Map(products.map((product) => [keyOf(product.group.names), product]))
    this.bytes = bytes
  }

  /** The packed product of exactly these names, or undefined when plain operations must do. */
  find(names: readonly string[]): PackedProduct | undefined {
    return this.#products.get(keyOf(names))
  }

  /** Parameters that live here and nowhere else. */
  parameterNames(): Set<string> {
    const names = [...this.#products.values()].flatMap(({ group }) => group.names)
    return new Set(names.flatMap((name) => [`${name}.weight`, `${name}.bias`]))
  }

  [Symbol.dispose](): void {
    this.#arena.dispose()
  }
}

function keyOf(names: readonly string[]): string {
  return names.join('\n')
}

/** Packs every product that the kernels can multiply; the others are left to {@link loadWeights}. */
export function packWeights(
  model: OpenModel,
  device: Device,
  kernels: Kernels,
  quantize: DType | undefined,
  onProgress?: (share: number) => void,
): PackedWeights {
  const { architecture, config } = model.definition
  const groups = architecture.products(config)
  const arena = new Arena(groups.length * 2 + 1)
  try {
    const products = groups.flatMap((group) => describe(model, arena, kernels, group, quantize) ?? [])
    const bytes = products.length === 0 ? 0 : arena.allocate(device.bufferType).bytes
    for (const [index, product] of products.entries()) {
      fill(model, device, kernels, product)
      onProgress?.((index + 1) / products.length)
    }
    return new PackedWeights(arena, products, bytes)
  } catch (error) {
    arena.dispose()
    throw error
  }
}

function describe(
  model: OpenModel,
  arena: Arena,
  kernels: Kernels,
  group: ProductGroup,
  quantize: DType | undefined,
): PackedProduct | undefined {
  const shapes = group.names.map((name) => shapeOf(model, name))
  const inputs = shapes[0]![1]
  const dtypes = group.names.map((name) => keptDtype(model.info(`${name}.weight`)!.dtype, inputs, quantize))
  const format = dtypes.every((dtype) => dtype === dtypes[0]) ? formats[dtypes[0]!] : undefined
  if (format === undefined) return undefined
  const biased = group.names.some((name) => model.info(`${name}.bias`) !== undefined)
  if (group.kind === 'gated' && (biased || shapes[0]![0] % panelOutputs !== 0)) return undefined
  let columns = 0
  const members = group.names.map((name, i) => {
    const member = { name, first: columns, outputs: shapes[i]![0] }
    columns += Math.ceil(member.outputs / panelOutputs) * panelOutputs
    return member
  })
  const outputs = group.kind === 'joined' ? columns : members[0]!.outputs
  const packedBytes = kernels.packedBytes(format, outputs, inputs, group.kind === 'gated')
  return {
    group,
    format,
    dtype: dtypes[0]!,
    weight: arena.leaf('I8', [packedBytes], group.names[0]!),
    bias: biased ? arena.leaf('F32', [outputs], `${group.names[0]}.bias`) : undefined,
    inputs,
    outputs,
    members,
  }
}

/** [outputs, inputs], whichever way the file has it. */
function shapeOf(model: OpenModel, name: string): [number, number] {
  const [first, second] = model.info(`${name}.weight`)!.shape as [number, number]
  return model.transposed(`${name}.weight`) ? [second, first] : [first, second]
}

/** The packed format that keeps the numbers as they are. */
const formats: { readonly [D in DType]?: PackedFormat } = {
  Q8_0: 'q8',
  Q4_0: 'q4',
  Q4_1: 'q4',
  F16: 'f16',
  BF16: 'bf16',
  F32: 'f32',
}

function fill(model: OpenModel, device: Device, kernels: Kernels, product: PackedProduct): void {
  const { group, format, dtype, inputs } = product
  const packed = new Uint8Array(product.weight.hostView())
  for (const [index, { name, first }] of product.members.entries()) {
    const interleave: Interleave = group.kind !== 'gated' ? 'whole' : index === 0 ? 'gate' : 'up'
    const firstRow = group.kind === 'joined' ? first : 0
    for (const { row, rows, bytes } of rowsOf(model, device.ggml, `${name}.weight`, dtype)) {
      kernels.packRows(format, packed, inputs, firstRow + row, { dtype, data: bytes, rows }, interleave)
    }
  }
  if (product.bias === undefined) return
  const joined = new Float32Array(product.outputs)
  for (const { name, first } of product.members) {
    if (model.info(`${name}.bias`) !== undefined)
      joined.set(vectorOf(model, device.ggml, `${name}.bias`), first)
  }
  product.bias.write(joined)
}
