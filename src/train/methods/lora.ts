/**
 * Low-rank adapters beside frozen products: the formulas, and what is kept of each, are in models/adapter.ts.
 *
 * N rows, r rank. The base may be quantised (QLoRA, Dettmers 2023); adapters are F32.
 */
import { assert } from '../../base/assert.ts'
import { deriveSeed, uniformAt } from '../../base/random.ts'
import {
  type Adapter,
  type AdapterLayer,
  adaptableProducts,
  adapterConfigName,
  adapterConfigText,
  adapterTensorName,
  adapterWeightsName,
} from '../../models/adapter.ts'
import { type AdapterSettings, scaleOf } from '../../models/adapter-config.ts'
import type { LinearLayers, ParameterSpec } from '../../models/architecture.ts'
import { type ParameterAccess, plainLayers } from '../../models/plain-layers.ts'
import type { Definition } from '../../models/registry.ts'
import { Arena } from '../../runtime/arena.ts'
import type { Device } from '../../runtime/device.ts'
import type { Ops } from '../../runtime/ops.ts'
import type { Tensor } from '../../runtime/tensor.ts'
import { trainedMixture } from '../mixture.ts'
import type { SavedForm, TrainedPart } from '../parameters.ts'
import { rowSquares } from './row-squares.ts'

/**
 * A new adapter, which changes nothing yet: B is zero, A uniform in +-1/sqrt(inputs) as PEFT draws it (Kaiming with
 * a = sqrt 5), magnitudes are the lengths of the frozen weight's rows. A pure function of its arguments.
 */
export function freshAdapter(
  definition: Definition,
  frozen: ParameterAccess,
  settings: AdapterSettings,
  seed: number,
): Adapter {
  const layers = new Map<string, AdapterLayer>()
  const { rank, targets, dora } = settings
  for (const [name, [outputs, inputs]] of adaptableProducts(definition)) {
    if (!targets.some((end) => name === end || name.endsWith(`.${end}`))) continue
    const own = deriveSeed(seed, `adapter of ${name}`)
    layers.set(name, {
      name,
      inputs,
      outputs,
      rank,
      scale: scaleOf(settings, name, rank),
      a: Float32Array.from(
        { length: rank * inputs },
        (_, i) => (2 * uniformAt(own, i) - 1) / Math.sqrt(inputs),
      ),
      b: new Float32Array(outputs * rank),
      magnitude: dora ? Float32Array.from(rowSquares(frozen.weight(`${name}.weight`)), Math.sqrt) : undefined,
    })
  }
  assert(layers.size > 0, 'the targets name products of the model')
  return { settings, layers }
}

interface Placed {
  scale: number
  /** [r, inputs] */
  a: Tensor
  /** [outputs, r] */
  b: Tensor
  dora: { magnitude: Tensor; squares: Tensor } | undefined
}

/** The adapter on a device, as the part of its model that is trained. */
export class AdapterPart implements TrainedPart {
  readonly specs: readonly ParameterSpec[]
  readonly saved: SavedForm
  readonly #arena: Arena
  readonly #placed: ReadonlyMap<string, Placed>
  readonly #adapter: Adapter
  readonly #weights: ReadonlyMap<string, Tensor>

  constructor(adapter: Adapter, definition: Definition, frozen: ParameterAccess, device: Device) {
    const layers = [...adapter.layers.values()]
    this.#adapter = adapter
    this.specs = layers.flatMap(specsOf)
    this.saved = {
      weightsName: adapterWeightsName,
      description: { name: adapterConfigName, content: adapterConfigText(adapter.settings, definition) },
    }
    const arena = new Arena(4 * layers.length)
    this.#arena = arena
    this.#weights = new Map(this.specs.map(({ name, shape }) => [name, arena.leaf('F32', shape, name)]))
    this.#placed = new Map(layers.map((layer) => [layer.name, this.#place(layer)]))
    arena.allocate(device.bufferType)
    for (const layer of layers) fill(layer, this.#placed.get(layer.name)!, frozen)
  }

  #place({ name, scale, outputs, magnitude }: AdapterLayer): Placed {
    const part = (which: 'a' | 'b' | 'magnitude') => this.weight(adapterTensorName(name, which))
    const dora = magnitude && {
      magnitude: part('magnitude'),
      squares: this.#arena.leaf('F32', [outputs, 1], `squares of ${name}`),
    }
    return { scale, a: part('a'), b: part('b'), dora }
  }

  adapter(): Adapter {
    const { settings, layers } = this.#adapter
    const now = [...layers.values()].map((layer): [string, AdapterLayer] => {
      const { a, b, dora } = this.#placed.get(layer.name)!
      return [
        layer.name,
        { ...layer, a: a.toFloats(), b: b.toFloats(), magnitude: dora?.magnitude.toFloats() },
      ]
    })
    return { settings, layers: new Map(now) }
  }

  weight(name: string): Tensor {
    const tensor = this.#weights.get(name)
    assert(tensor, `the adapter has ${name}`)
    return tensor
  }

  layers(ops: Ops, frozen: ParameterAccess): LinearLayers {
    const adapted = plainLayers(ops, frozen, (x, name) => {
      const weight = frozen.weight(`${name}.weight`)
      const y = ops.matmul(x, weight) //                                          [N, outputs]
      const placed = this.#placed.get(name)
      if (placed === undefined) return y
      const aside = { aside: true }
      const low = ops.scale(ops.matmul(x, placed.a, aside), placed.scale) //      [N, r]
      const sum = ops.add(y, ops.matmul(low, placed.b, aside)) //                 [N, outputs]
      if (placed.dora === undefined) return sum
      return ops.mul(sum, ops.div(placed.dora.magnitude, lengths(ops, weight, placed)))
    })
    // Adapters stand beside attention and single feed-forwards: experts and what chooses them stay as they are.
    return { ...adapted, mixed: trainedMixture(ops, frozen) }
  }

  [Symbol.dispose](): void {
    this.#arena.dispose()
  }
}

function specsOf({ name, inputs, outputs, rank, magnitude }: AdapterLayer): ParameterSpec[] {
  const spec = (part: 'a' | 'b' | 'magnitude', shape: readonly number[]): ParameterSpec => ({
    name: adapterTensorName(name, part),
    shape,
    role: part === 'magnitude' ? 'vector' : 'product',
    init: { value: 0 },
  })
  const pair = [spec('a', [rank, inputs]), spec('b', [outputs, rank])]
  return magnitude === undefined ? pair : [...pair, spec('magnitude', [outputs])]
}

function fill(layer: AdapterLayer, placed: Placed, frozen: ParameterAccess): void {
  placed.a.write(layer.a)
  placed.b.write(layer.b)
  if (placed.dora === undefined) return
  placed.dora.magnitude.write(layer.magnitude!)
  placed.dora.squares.write(Float32Array.from(rowSquares(frozen.weight(`${layer.name}.weight`))))
}

/**
 * Length of every row of W + s B A: [outputs]. |w + s b A|^2 = |w|^2 + b (2 s A w + s^2 A A^T b), so nothing as
 * large as W is made. Its gradient is left out, as the paper proposes (section 4.3) and PEFT does.
 */
function lengths(ops: Ops, weight: Tensor, { a, b, scale, dora }: Placed): Tensor {
  const crossed = ops.transposed(ops.matmul(a, weight)) //                        [outputs, r]
  const own = ops.matmul(b, ops.matmul(a, a)) //                                  [outputs, r]
  const slope = ops.add(ops.scale(crossed, 2 * scale), ops.scale(own, scale * scale))
  const squares = ops.add(dora!.squares, ops.sumRows(ops.mul(b, slope))) //       [outputs, 1]
  return ops.detached(ops.reshape(ops.sqrt(squares), [b.shape[0]!]))
}
