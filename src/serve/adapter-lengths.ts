/**
 * What DoRA (Liu 2024) multiplies every output by: magnitude / |W + scale B A|, the length of that output's row. It
 * does not depend on the input, so it is computed once, when an adapter is loaded, from the weights as they are served.
 *
 * M outputs, K inputs, r ranks, n rows of the weight at once.
 */
import { UserError } from '../base/errors.ts'
import type { AdapterFactors } from '../models/packed-adapters.ts'
import type { PackedProduct } from '../models/packed-weights.ts'
import type { Weights } from '../models/weights.ts'
import { Device } from '../runtime/device.ts'
import { Graph } from '../runtime/graph.ts'
import { KernelContext, type Kernels, packedFormats } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'

/** Numbers of the weight that are expanded at once. */
const numbersAtOnce = 1 << 20

/** Where a product's weight is: in its own tensor, or among the members of a packed one. */
export interface WeightPlace {
  name: string
  packed: PackedProduct | undefined
}

export type DoraFactors = AdapterFactors & { magnitude: Float32Array }

/** The factor of each output: [M]. Another computation may run meanwhile; the event loop goes on. */
export async function outputFactors(
  place: WeightPlace,
  layer: DoraFactors,
  weights: Weights,
  device: Device,
  kernels: Kernels | undefined,
): Promise<Float32Array> {
  const { inputs, outputs, rank, scale } = layer
  refuseUnreadable(place, layer, weights, device)
  const count = Math.max(1, Math.min(outputs, Math.floor(numbersAtOnce / inputs)))
  using own = new Device({ device: 'cpu', threads: 1 })
  using context = kernels && new KernelContext(kernels)
  using graph = new Graph(own, 64, 8)
  const { ops } = graph
  const ids = graph.input('I32', [count], 'ids')
  const a = graph.input('F32', [inputs, rank], 'a')
  const b = graph.input('F32', [count, rank], 'b')
  const rows = rowsOf(place, ids, inputs, weights, graph, context) //          [n, K]
  const changed = ops.add(rows, ops.scale(ops.matmul(b, a), scale)) //         [n, K]
  const squares = graph.output(ops.sumRows(ops.sqr(changed))) //               [n, 1]
  graph.allocate()
  a.write(transposed(layer.a, rank, inputs))
  const rowIn = rowNumbering(place)
  const factors = new Float32Array(outputs)
  const lengths = new Float32Array(count)
  const [ownIds, ownB] = [new Int32Array(count), new Float32Array(count * rank)]
  for (let first = 0; first < outputs; first += count) {
    const rowsNow = Math.min(count, outputs - first)
    for (let i = 0; i < rowsNow; i++) ownIds[i] = rowIn(first + i)
    ownB.set(layer.b.subarray(first * rank, (first + rowsNow) * rank))
    ids.write(ownIds)
    b.write(ownB)
    await graph.computeAsync()
    squares.read(lengths)
    for (let i = 0; i < rowsNow; i++)
      factors[first + i] = layer.magnitude[first + i]! / Math.sqrt(lengths[i]!)
  }
  return factors
}

function rowsOf(
  { name, packed }: WeightPlace,
  ids: Tensor,
  inputs: number,
  weights: Weights,
  { ops }: Graph,
  context: KernelContext | undefined,
): Tensor {
  if (packed === undefined) return ops.rows(weights.get(`${name}.weight`), ids)
  const { fn, userdata } = context!.call('embed', { format: packedFormats[packed.format] })
  return ops.custom('embed', fn, 'F32', [ids.shape[0]!, inputs], [ids, packed.weight], userdata)
}

/** Where a row of the product lies in its packed weight: gate and up take turns, 16 rows each (native/packed.h). */
function rowNumbering({ name, packed }: WeightPlace): (row: number) => number {
  if (packed === undefined) return (row) => row
  const index = packed.members.findIndex((member) => member.name === name)
  if (packed.group.kind !== 'gated') return (row) => packed.members[index]!.first + row
  const width = packed.outputs
  return (row) => {
    const [inHalf, half] = packed.members.length > 1 ? [row, index] : [row % width, Math.floor(row / width)]
    return Math.floor(inHalf / 16) * 32 + (inHalf % 16) + 16 * half
  }
}

/** Memory that only products can read (a GPU's, rearranged weights) has no rows to measure. */
function refuseUnreadable(
  { name, packed }: WeightPlace,
  layer: DoraFactors,
  weights: Weights,
  device: Device,
) {
  if (packed !== undefined) return
  const { dtype } = weights.get(`${name}.weight`)
  const plain =
    device.isHost && device.productBufferType(dtype, layer.outputs, layer.inputs) === device.bufferType
  if (plain) return
  throw new UserError(
    'DoRA adapters need weights that our kernels or plain memory hold, and these lie elsewhere.',
    {
      fix: 'Merge the adapter (ropeway export DIR --as merged --to NEW, or PEFT) and serve the merged model.',
    },
  )
}

function transposed(from: Float32Array, rows: number, columns: number): Float32Array {
  return Float32Array.from(from, (_, at) => from[(at % rows) * columns + Math.floor(at / rows)]!)
}
