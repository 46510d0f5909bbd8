/**
 * Adapters of the model that are loaded, each in a slot. Any rows of one batch may have any of them: packed
 * products look factors up by slot, the others have them in their graph (models/adapter-layers.ts).
 */
import { assert } from '../base/assert.ts'
import { UserError } from '../base/errors.ts'
import type { AdapterRun, FactorTensors } from '../models/adapter-layers.ts'
import { type AdapterFactors, type FactorFormat, packAdapter } from '../models/packed-adapters.ts'
import type { PackedProduct } from '../models/packed-weights.ts'
import type { Definition } from '../models/registry.ts'
import type { Weights } from '../models/weights.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Kernels } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { outputFactors } from './adapter-lengths.ts'

/** What an adapter changes, by name of the product. */
export type AdapterLayers = ReadonlyMap<string, AdapterFactors & { magnitude?: Float32Array | undefined }>

interface Loaded {
  slot: number
  bytes: number
  arena: Arena
  plain: ReadonlyMap<string, FactorTensors>
}

/** Slots in the tables: more than may be loaded, because a version stays until its last request has ended. */
export const adapterSlots = 64

/**
 * Adapters are large, so that each begins where a page does, and those that are read side by side would all lie in the
 * same sets of the caches. Each begins a page and two lines later than the one before.
 */
const staggerBytes = 4096 + 128

export class AdapterBank implements Disposable {
  readonly #device: Device
  readonly #weights: Weights
  /** That packed the weights. */
  readonly #kernels: Kernels | undefined
  readonly #groups: readonly { product: PackedProduct; table: Tensor }[]
  /** Products that are not packed. */
  readonly #plainNames: readonly string[]
  readonly #tables: Arena
  readonly #tableOf = new Map<PackedProduct, Tensor>()
  readonly #loaded = new Map<string, Loaded>()
  readonly #bySlot: (Loaded | undefined)[] = new Array(adapterSlots).fill(undefined)
  /** Slots that are being filled. */
  readonly #reserved = new Set<number>()

  constructor({ architecture, config }: Definition, weights: Weights, device: Device, kernels?: Kernels) {
    this.#device = device
    this.#weights = weights
    this.#kernels = kernels
    const groups = architecture.products(config)
    const products = groups.flatMap(({ names }) => weights.packed?.find(names) ?? [])
    this.#tables = new Arena(products.length + 1)
    this.#groups = products.map((product) => {
      const table = this.#tables.leaf('I32', [adapterSlots * 2], `adapters.${product.group.names[0]}`)
      this.#tableOf.set(product, table)
      return { product, table }
    })
    if (products.length > 0) this.#tables.allocate(device.bufferType)
    const empty = new Int32Array(adapterSlots * 2)
    for (const { table } of this.#groups) table.write(empty)
    this.#plainNames = groups
      .filter(({ names }) => weights.packed?.find(names) === undefined)
      .flatMap(({ names }) => names)
  }

  /** Bytes of all that are loaded. */
  get bytes(): number {
    return [...this.#loaded.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  }

  has(id: string): boolean {
    return this.#loaded.has(id)
  }

  /** The slot of an adapter, -1 for none. */
  slotOf(id: string | undefined): number {
    if (id === undefined) return -1
    const loaded = this.#loaded.get(id)
    assert(loaded !== undefined, 'a request runs only while its adapter is loaded')
    return loaded.slot
  }

  /** Where a packed product finds the factors of each slot. */
  tableOf(product: PackedProduct): Tensor {
    const table = this.#tableOf.get(product)
    assert(table !== undefined, 'every packed product has a table of adapters')
    return table
  }

  /** For a product that is not packed; undefined where the adapter leaves it alone. */
  factors(slot: number, name: string): FactorTensors | undefined {
    return this.#bySlot[slot]?.plain.get(name)
  }

  /** True when the graph of a batch depends on which of its rows have which adapter. */
  get shapesGraphs(): boolean {
    return this.#plainNames.length > 0
  }

  /**
   * Loads an adapter under `id`, in steps between which the event loop gets its turn; it is there for requests
   * once this resolves. The engine may be computing meanwhile.
   */
  async add(id: string, layers: AdapterLayers): Promise<void> {
    assert(!this.#loaded.has(id), 'an adapter is loaded once')
    const slot = this.#bySlot.findIndex((taken, i) => taken === undefined && !this.#reserved.has(i))
    if (slot < 0)
      throw new UserError(`All ${adapterSlots} slots for adapters are taken.`, { failure: 'conflict' })
    this.#reserved.add(slot)
    try {
      const whole = await this.#withFactors(layers)
      const pieces: { table: Tensor; bytes: Uint8Array }[] = []
      for (const { product, table } of this.#groups) {
        const bytes = packAdapter(product, whole, factorsBeside(product))
        if (bytes !== undefined) pieces.push({ table, bytes })
        await breath()
      }
      this.#publish(id, slot, pieces, whole)
    } finally {
      this.#reserved.delete(slot)
    }
  }

  /** The layers as products take them: a magnitude becomes a factor of each output. */
  async #withFactors(layers: AdapterLayers): Promise<ReadonlyMap<string, AdapterFactors>> {
    const whole = new Map<string, AdapterFactors>()
    for (const [name, { magnitude, ...layer }] of layers) {
      if (magnitude === undefined) {
        whole.set(name, layer)
        continue
      }
      const packed = this.#groups.find(({ product }) =>
        product.members.some((member) => member.name === name),
      )
      const place = { name, packed: packed?.product }
      const dora = { ...layer, magnitude }
      const factor = await outputFactors(place, dora, this.#weights, this.#device, this.#kernels)
      whole.set(name, { ...layer, factor })
    }
    return whole
  }

  #publish(
    id: string,
    slot: number,
    pieces: readonly { table: Tensor; bytes: Uint8Array }[],
    layers: ReadonlyMap<string, AdapterFactors>,
  ): void {
    const arena = new Arena(pieces.length + 4 * this.#plainNames.length + 2)
    try {
      if (pieces.length > 0) arena.leaf('I8', [staggerBytes * (slot + 1)])
      const packed = pieces.map(({ bytes }) => arena.leaf('I8', [bytes.length]))
      const plain = new Map<string, FactorTensors>()
      for (const name of this.#plainNames) {
        const factors = layers.get(name)
        if (factors === undefined) continue
        const { rank, inputs, outputs, scale, factor } = factors
        const biased = factor !== undefined && this.#weights.has(`${name}.bias`)
        plain.set(name, {
          a: arena.leaf('F32', [rank, inputs]),
          b: arena.leaf('F32', [outputs, rank]),
          scale,
          ...(factor !== undefined && { factor: arena.leaf('F32', [outputs]) }),
          ...(biased && { biasRest: arena.leaf('F32', [outputs]) }),
        })
      }
      const { bytes } = arena.allocate(this.#device.bufferType)
      if (packed[0] !== undefined) this.#kernels?.useLargePages(packed[0], bytes)
      for (const [i, piece] of pieces.entries()) {
        packed[i]!.write(piece.bytes)
        this.#point(piece.table, slot, packed[i]!.address)
      }
      for (const [name, tensors] of plain) this.#fill(name, tensors, layers.get(name)!)
      const loaded = { slot, bytes, arena, plain }
      this.#loaded.set(id, loaded)
      this.#bySlot[slot] = loaded
    } catch (error) {
      this.#clear(slot)
      arena.dispose()
      throw error
    }
  }

  #fill(name: string, tensors: FactorTensors, { a, b, factor }: AdapterFactors): void {
    tensors.a.write(a)
    tensors.b.write(b)
    if (factor !== undefined) tensors.factor!.write(factor)
    if (factor === undefined || tensors.biasRest === undefined) return
    const bias = new Float32Array(factor.length)
    this.#weights.get(`${name}.bias`).read(bias)
    tensors.biasRest.write(bias.map((value, o) => value * (1 - factor[o]!)))
  }

  /** Forgets an adapter that no request has any more; not while the device computes. */
  remove(id: string): void {
    const loaded = this.#loaded.get(id)
    if (loaded === undefined) return
    this.#loaded.delete(id)
    this.#bySlot[loaded.slot] = undefined
    this.#clear(loaded.slot)
    loaded.arena.dispose()
  }

  #clear(slot: number): void {
    for (const { table } of this.#groups) this.#point(table, slot, 0n)
  }

  #point(table: Tensor, slot: number, address: bigint): void {
    table.write(BigInt64Array.of(address), slot * 8)
  }

  [Symbol.dispose](): void {
    for (const { arena } of this.#loaded.values()) arena.dispose()
    this.#loaded.clear()
    this.#tables.dispose()
  }
}

/** Factors are kept as exactly as what they change: all of it is read once an iteration, which is what adapters cost. */
export function factorsBeside({ format }: PackedProduct): FactorFormat {
  if (format === 'f32') return 'F32'
  return format === 'f16' || format === 'bf16' ? 'BF16' : 'I8'
}

/** Runs of equal slots, in order. */
export function runsOf(slots: Int32Array): AdapterRun[] {
  const runs: AdapterRun[] = []
  for (const slot of slots) {
    const last = runs.at(-1)
    if (last?.slot === slot) last.rows++
    else runs.push({ slot, rows: 1 })
  }
  return runs
}

function breath(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
