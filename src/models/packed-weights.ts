/**
 * Weights of products in the layout that our kernels read (native/packed.h). They are packed while loading, a
 * few rows at a time, and the file's own layout of them is never in memory.
 */
import type { DType } from '../base/dtype.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Kernels, PackedFormat } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { ProductGroup } from './architecture.ts'
import type { OpenModel } from './open.ts'
import { keptDtype, type RowPiece, RowScratch, rowsOf, vectorOf } from './rows.ts'

export interface PackedProduct {
  group: ProductGroup
  format: PackedFormat
  /** The number format that was packed. */
  dtype: DType
  /** The packed bytes. */
  weight: Tensor
  /** [outputs] F32, zero where a member has none; absent when none has one. Of experts [E, outputs], of gate and up [E, 2, outputs]. */
  bias: Tensor | undefined
  inputs: number
  /** Columns of the result, gaps between members included; of one expert, where there are some. */
  outputs: number
  /** Whose weights lie below one another. */
  experts?: number
  /** First column of each member of a joined group, and how many outputs a member has, gate and up of one product both. */
  members: readonly { name: string; first: number; outputs: number }[]
}

/** Members of a joined group begin at a whole panel. */
const panelOutputs = 16

export class PackedWeights implements Disposable {
  readonly bytes: number
  readonly #arena: Arena
  readonly #products: ReadonlyMap<string, readonly PackedProduct[]>

  /** `products`: of each group of the network that is packed, its parts. */
  constructor(arena: Arena, products: readonly (readonly PackedProduct[])[], bytes: number) {
    this.#arena = arena
    const named = (parts: readonly PackedProduct[]) => keyOf(parts.flatMap(({ group }) => group.names))
    this.#products = new Map(products.map((parts) => [named(parts), parts]))
    this.bytes = bytes
  }

  /**
   * The packed products that hold exactly these names, in their order: one, or several where the file has members
   * of a group in different formats. Undefined when plain operations must do.
   */
  find(names: readonly string[]): readonly PackedProduct[] | undefined {
    return this.#products.get(keyOf(names))
  }

  /** Parameters that live here and nowhere else. */
  parameterNames(): Set<string> {
    const names = [...this.#products.values()].flat().flatMap(({ group }) => group.names)
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
  const arena = new Arena(groups.flatMap(({ names }) => names).length * 2 + 1)
  try {
    const packed = groups.flatMap((group) => {
      const parts = partsOf(model, group, quantize)
      return parts === undefined ? [] : [parts.map((part) => describe(model, arena, kernels, part))]
    })
    const products = packed.flat()
    const bytes = products.length === 0 ? 0 : arena.allocate(device.bufferType).bytes
    if (products[0] !== undefined) kernels.useLargePages(products[0].weight, bytes)
    const scratch = new RowScratch()
    for (const [index, product] of products.entries()) {
      fill(model, device, kernels, product, scratch)
      onProgress?.((index + 1) / products.length)
    }
    return new PackedWeights(arena, packed, bytes)
  } catch (error) {
    arena.dispose()
    throw error
  }
}

interface Part {
  group: ProductGroup
  dtype: DType
  format: PackedFormat
  experts?: number
}

/** Cuts a group where the format changes; undefined when some of it cannot be packed. */
function partsOf(
  model: OpenModel,
  group: ProductGroup,
  quantize: DType | undefined,
): readonly Part[] | undefined {
  if (group.kind === 'mixed') return partsOfMixture(model, group, quantize)
  const biased = group.names.some((name) => model.info(`${name}.bias`) !== undefined)
  if (group.kind === 'gated' && (biased || gatedOutputs(model, group) % panelOutputs !== 0)) return undefined
  const runs: { dtype: DType; names: string[] }[] = []
  for (const name of group.names) {
    const dtype = keptDtype(model.info(`${name}.weight`)!.dtype, shapeOf(model, name)[1], quantize)
    const last = runs.at(-1)
    if (last?.dtype === dtype) last.names.push(name)
    else runs.push({ dtype, names: [name] })
  }
  const parts = runs.flatMap(({ dtype, names }): Part[] => {
    const format = formats[dtype]
    if (format === undefined) return []
    if (runs.length === 1) return [{ group, dtype, format }]
    return [
      { group: { kind: group.kind === 'gated' ? 'single' : 'joined', names } as ProductGroup, dtype, format },
    ]
  })
  return parts.length === runs.length ? parts : undefined
}

/** All of a mixture or nothing: its router in F32, gate with up, and down, each expert from a panel of its own on. */
function partsOfMixture(
  model: OpenModel,
  { names: [router, gate, up, down], experts }: ProductGroup & { kind: 'mixed' },
  quantize: DType | undefined,
): readonly Part[] | undefined {
  const [gates, ups, downs] = [gate, up, down].map((name) =>
    keptDtype(model.info(`${name}.weight`)!.dtype, shapeOf(model, name)[1], quantize),
  ) as [DType, DType, DType]
  const [inside, outside] = [gates, downs].map((dtype) => formats[dtype])
  const panels = (name: string) => shapeOf(model, name)[0] / experts / panelOutputs
  // Two panels of a format may lie in each other's gaps, but not those of two experts.
  if (gates !== ups || inside === undefined || outside === undefined) return undefined
  if (!Number.isInteger(panels(gate)) || !Number.isInteger(panels(down) / 2)) return undefined
  return [
    { group: { kind: 'single', names: [router] }, dtype: 'F32', format: 'f32' },
    { group: { kind: 'gated', names: [gate, up] }, dtype: gates, format: inside, experts },
    { group: { kind: 'single', names: [down] }, dtype: downs, format: outside, experts },
  ]
}

function describe(
  model: OpenModel,
  arena: Arena,
  kernels: Kernels,
  { group, dtype, format, experts }: Part,
): PackedProduct {
  const inputs = shapeOf(model, group.names[0]!)[1]
  const biased = group.names.some((name) => model.info(`${name}.bias`) !== undefined)
  let columns = 0
  const members = group.names.map((name) => {
    const member = { name, first: columns, outputs: shapeOf(model, name)[0] }
    columns += Math.ceil(member.outputs / panelOutputs) * panelOutputs
    return member
  })
  const outputs =
    group.kind === 'joined'
      ? columns
      : group.kind === 'gated'
        ? gatedOutputs(model, group)
        : members[0]!.outputs
  const biases = group.kind === 'gated' ? 2 * outputs : outputs
  const packedBytes = kernels.packedBytes(format, outputs, inputs, group.kind === 'gated')
  return {
    group,
    format,
    dtype,
    weight: arena.leaf('I8', [packedBytes], group.names[0]!),
    bias: biased ? arena.leaf('F32', [biases], `${group.names[0]}.bias`) : undefined,
    inputs,
    outputs: outputs / (experts ?? 1),
    ...(experts !== undefined && { experts }),
    members,
  }
}

/** Columns of what gate and up make together. */
function gatedOutputs(model: OpenModel, { names }: ProductGroup): number {
  return shapeOf(model, names[0]!)[0] / (3 - names.length)
}

/** [outputs, inputs], whichever way the file has it. */
function shapeOf(model: OpenModel, name: string): [number, number] {
  const [first, second] = model.info(`${name}.weight`)!.shape as [number, number]
  return model.transposed(`${name}.weight`) ? [second, first] : [first, second]
}

/** The packed format that keeps the numbers as they are; q8 rounds codes once more to the scale of 256 inputs. */
const formats: { readonly [D in DType]?: PackedFormat } = {
  Q8_0: 'q8',
  Q4_0: 'q4s',
  Q4_1: 'q4',
  Q5_0: 'q5s',
  Q5_1: 'q5',
  Q4_K: 'q4k',
  Q5_K: 'q5k',
  Q6_K: 'q6k',
  MXFP4: 'mx4',
  F16: 'f16',
  BF16: 'bf16',
  F32: 'f32',
}

function fill(
  model: OpenModel,
  device: Device,
  kernels: Kernels,
  product: PackedProduct,
  scratch: RowScratch,
): void {
  const { group, format, dtype, inputs } = product
  const packed = new Uint8Array(product.weight.hostView())
  for (const [index, { name, first }] of product.members.entries()) {
    for (const piece of rowsOf(model, device.ggml, `${name}.weight`, dtype, scratch)) {
      const parts =
        group.kind === 'gated'
          ? gateAndUp(piece, index, gatedOutputs(model, group))
          : [{ ...piece, interleave: 'whole' as const }]
      for (const { row, rows, bytes, interleave } of parts) {
        const firstRow = interleave === 'whole' ? first + row : row
        kernels.packRows(format, packed, inputs, firstRow, { dtype, data: bytes, rows }, interleave)
      }
    }
  }
  if (product.bias === undefined) return
  const joined = new Float32Array(product.bias.size)
  for (const [index, { name, first }] of product.members.entries()) {
    if (model.info(`${name}.bias`) === undefined) continue
    const values = vectorOf(model, device.ggml, `${name}.bias`)
    if (group.kind === 'gated') interleave(values, index, product, joined)
    else joined.set(values, first)
  }
  product.bias.write(joined)
}

/** Biases of gate (0) or up (1), those of one expert beside those that its other product has. */
function interleave(values: Float32Array, member: number, { outputs }: PackedProduct, into: Float32Array) {
  for (let from = 0; from < values.length; from += outputs)
    into.set(values.subarray(from, from + outputs), 2 * from + member * outputs)
}

/** The rows of a piece that are gate's, and those that are up's: of two members, or one behind the other in one. */
function* gateAndUp({ row, rows, bytes }: RowPiece, member: number, width: number) {
  const start = member * width + row
  const gates = Math.min(rows, Math.max(0, width - start))
  const cut = (bytes.length / rows) * gates
  if (gates > 0) yield { row: start, rows: gates, bytes: bytes.subarray(0, cut), interleave: 'gate' as const }
  if (gates === rows) return
  yield {
    row: start + gates - width,
    rows: rows - gates,
    bytes: bytes.subarray(cut),
    interleave: 'up' as const,
  }
}
