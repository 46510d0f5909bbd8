/**
 * Weights of products in the layout that our kernels read (native/packed.h). They are packed while loading, a
 * few rows at a time, and the file's own layout of them is never in memory.
 */
import { assert } from '../base/assert.ts'
import { bytesOf, type DType, dtypes } from '../base/dtype.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import {
  type Interleave,
  type Kernels,
  type PackedFormat,
  packableFrom,
  packedFormats,
} from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { ProductGroup } from './architecture.ts'
import type { OpenModel } from './open.ts'
import { convertRows, readRows } from './rows.ts'

export interface PackedProduct {
  group: ProductGroup
  format: PackedFormat
  /** The packed bytes. */
  weight: Tensor
  /** [outputs] F32, zero where a member has none; absent when none has one. */
  bias: Tensor | undefined
  /** Columns of the result, gaps between members included. */
  outputs: number
  /** First column and number of columns of each member of a joined group. */
  members: readonly { name: string; first: number; outputs: number }[]
}

/** Members of a joined group begin at a whole panel. */
const panelOutputs = 16
const pieceBytes = 4 << 20

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
      fill(model, device, kernels, product, quantize)
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
  const infos = group.names.map((name) => model.info(`${name}.weight`))
  const dtype = storedAs(
    infos.map((info) => info?.dtype),
    quantize,
  )
  const format = dtype && formatOf(dtype)
  const inputs = infos[0]?.shape.at(-1)
  const transposed = group.names.some((name) => model.info(`${name}.weight`) && turned(model, name))
  if (format === undefined || inputs === undefined || inputs % 32 !== 0 || transposed) return undefined
  const biased = group.names.some((name) => model.info(`${name}.bias`) !== undefined)
  if (group.kind === 'gated' && (biased || infos[0]!.shape[0]! % panelOutputs !== 0)) return undefined
  let columns = 0
  const members = group.names.map((name, i) => {
    const member = { name, first: columns, outputs: infos[i]!.shape[0]! }
    columns += Math.ceil(member.outputs / panelOutputs) * panelOutputs
    return member
  })
  const outputs = group.kind === 'joined' ? columns : members[0]!.outputs
  const packedBytes = kernels.packedBytes(format, outputs, inputs, group.kind === 'gated')
  return {
    group,
    format,
    weight: arena.leaf('I8', [packedBytes], group.names[0]!),
    bias: biased ? arena.leaf('F32', [outputs], `${group.names[0]}.bias`) : undefined,
    outputs,
    members,
  }
}

function turned(model: OpenModel, name: string): boolean {
  const spec = model.definition.architecture
    .parameters(model.definition.config)
    .find((candidate) => candidate.name === `${name}.weight`)
  return spec !== undefined && model.transposed(spec)
}

/** The one format of all members, as `--quantize` makes it; undefined when they differ. */
function storedAs(found: readonly (DType | undefined)[], quantize: DType | undefined): DType | undefined {
  const wanted = found.map((dtype) => dtype && (quantize ?? dtype))
  return wanted.every((dtype) => dtype === wanted[0]) ? wanted[0] : undefined
}

function formatOf(dtype: DType): PackedFormat | undefined {
  const formats = Object.keys(packedFormats) as PackedFormat[]
  // A format that keeps the numbers as they are comes before one that rounds them.
  const rounds = (format: PackedFormat) => format === 'q8' && dtype !== 'Q8_0'
  return formats.find(
    (format) => (packableFrom[format] as readonly DType[]).includes(dtype) && !rounds(format),
  )
}

function fill(
  model: OpenModel,
  device: Device,
  kernels: Kernels,
  product: PackedProduct,
  quantize: DType | undefined,
): void {
  const packed = new Uint8Array(product.weight.hostView())
  for (const [index, { name, first, outputs }] of product.members.entries()) {
    const info = model.info(`${name}.weight`)!
    const dtype = quantize ?? info.dtype
    const inputs = info.shape.at(-1)!
    const rowBytes = bytesOf(info.dtype, inputs)
    const order = model.rowOrder(`${name}.weight`)
    const interleave: Interleave = product.group.kind !== 'gated' ? 'whole' : index === 0 ? 'gate' : 'up'
    const firstRow = product.group.kind === 'joined' ? first : 0
    const step = Math.max(1, Math.floor(pieceBytes / Math.max(rowBytes, inputs * 4)))
    const piece = new Uint8Array(Math.min(step, outputs) * rowBytes)
    for (let row = 0; row < outputs; row += step) {
      const rows = Math.min(step, outputs - row)
      const bytes = piece.subarray(0, rows * rowBytes)
      readRows(model, `${name}.weight`, bytes, row, rows, rowBytes, order)
      const data = convertRows(device.ggml, bytes, info.dtype, dtype, rows, inputs)
      kernels.packRows(product.format, packed, inputs, firstRow + row, { dtype, data, rows }, interleave)
    }
  }
  if (product.bias !== undefined) product.bias.write(joinedBias(model, device, product))
}

function joinedBias(model: OpenModel, device: Device, product: PackedProduct): Float32Array {
  const joined = new Float32Array(product.outputs)
  for (const { name, first, outputs } of product.members) {
    const info = model.info(`${name}.bias`)
    if (info === undefined) continue
    assert(info.shape.join() === `${outputs}` && dtypes[info.dtype].block === 1, 'a bias is a plain vector')
    const perElement = dtypes[info.dtype].bytes
    const bytes = new Uint8Array(info.bytes)
    readRows(model, `${name}.bias`, bytes, 0, outputs, perElement, model.rowOrder(`${name}.bias`))
    const values = convertRows(device.ggml, bytes, info.dtype, 'F32', 1, outputs)
    joined.set(new Float32Array(values.buffer, values.byteOffset, outputs), first)
  }
  return joined
}
