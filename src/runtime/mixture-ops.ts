/**
 * Mixtures of experts in training, by our kernels: rows lie in slots, one for each expert that a row uses, those of an expert
 * beside one another (native/route.h).
 *
 * N rows, E experts, K used by a row, S = N K slots, W width, F outputs of an expert.
 */
import { ExpertOps } from './expert-ops.ts'
import type { Pointer } from './ffi.ts'
import { expertProducts, matmulBehind } from './kernel-ops.ts'
import type { OpAttributes } from './op-attributes.ts'
import type { Shape, Tensor } from './tensor.ts'

export class MixtureOps extends ExpertOps {
  #expertBytes = 0

  /** Bytes that a thread of the largest of our products by experts puts its factors in order in, about. */
  get expertBytes(): number {
    return this.#expertBytes
  }

  /** Whether {@link route} and what follows it are there, for weights like these. */
  mixes(weights: readonly Tensor[]): boolean {
    return this.kernels !== undefined && weights.every((w) => w.dtype === 'F32' || this.readsFrozen(w))
  }

  /**
   * The K experts of each row with the largest logits [N, E], and their shares: I32 [5 S + E + 1]. Its gradient is that of the
   * shares, [S, 1]; which experts are chosen has none.
   */
  route(logits: Tensor, attributes: OpAttributes['route']): Tensor<'route'> {
    const [rows, experts] = logits.shape as [number, number]
    const params = { used: attributes.used, normalised: attributes.normalised ? 1 : 0 }
    const shape = [5 * rows * attributes.used + experts + 1]
    const pointer = this.own('route', params, shape, [logits], 'I32')
    return this.make('route', pointer, shape, [logits], attributes, 'I32')
  }

  /** Gradient of the logits of {@link route} from that of the shares. */
  routeBack(dy: Tensor, routes: Tensor<'route'>): Tensor {
    const { attributes } = routes
    const logits = routes.inputs[0]
    const inputs = [dy, logits!, routes]
    const params = { used: attributes.used, normalised: attributes.normalised ? 1 : 0 }
    const pointer = this.own('route_back', params, logits!.shape, inputs)
    return this.make('routeBack', pointer, logits!.shape, inputs, {})
  }

  /** For each slot the place of its row and expert in [N, E], [S] (I32). */
  cellsOfSlots(routes: Tensor<'route'>): Tensor {
    const slots = routes.inputs[0]!.shape[0]! * routes.attributes.used
    return this.slice(routes, 0, 3 * slots, slots)
  }

  /** For each slot its expert, [S] (I32). */
  expertsOfSlots(routes: Tensor<'route'>): Tensor {
    const [rows, experts] = routes.inputs[0]!.shape as [number, number]
    const slots = rows * routes.attributes.used
    return this.slice(routes, 0, 4 * slots + experts + 1, slots)
  }

  /** Logits as they are, on whose way back a slope is added. */
  balanced(logits: Tensor, attributes: OpAttributes['balanced']): Tensor<'balanced'> {
    return this.make('balanced', logits.pointer, logits.shape, [logits], attributes)
  }

  /** For each slot its row, [S] (I32). */
  rowsOfSlots(routes: Tensor<'route'>): Tensor {
    const [rows, used] = [routes.inputs[0]!.shape[0]!, routes.attributes.used]
    return this.slice(routes, 0, 0, rows * used)
  }

  /** x [S, W] by slots times the transposed expert of each, of a weight [E*F, W]: [S, F]. */
  byExpert(x: Tensor, weight: Tensor, routes: Tensor, experts: number): Tensor<'byExpert'> {
    const shape = [x.shape[0]!, weight.shape[0]! / experts]
    return this.#byExpert({ experts, product: 'outputs' }, shape, [x, weight, routes])
  }

  /** Gradient of {@link byExpert} with respect to its rows. */
  byExpertInputsBack(dy: Tensor, weight: Tensor, routes: Tensor, experts: number): Tensor {
    return this.#byExpert(
      { experts, product: 'inputsBack' },
      [dy.shape[0]!, weight.shape[1]!],
      [dy, weight, routes],
    )
  }

  /** Gradient of {@link byExpert} with respect to its weight. */
  byExpertWeightsBack(dy: Tensor, x: Tensor, routes: Tensor, experts: number): Tensor {
    const shape = [experts * dy.shape[1]!, x.shape[1]!]
    return this.#byExpert({ experts, product: 'weightsBack' }, shape, [dy, x, routes])
  }

  #byExpert(
    attributes: OpAttributes['byExpert'],
    shape: Shape,
    inputs: readonly Tensor[],
  ): Tensor<'byExpert'> {
    const pointer = this.#expertProduct(attributes, shape, inputs)
    return this.make('byExpert', pointer, shape, inputs, attributes)
  }

  #expertProduct(
    { experts, product }: OpAttributes['byExpert'],
    shape: Shape,
    [a, b, routes]: readonly Tensor[],
    into?: Tensor,
  ): Pointer {
    // Strips of 256 outputs, and a block of rows with its sums.
    const sums = product === 'weightsBack' ? a!.shape[0]! : a!.shape[1]!
    this.#expertBytes = Math.max(this.#expertBytes, 4 * (256 * sums + 96 * 448))
    const op = this.precision === 'bf16' ? 'matmul_by_expert_bf16' : 'matmul_by_expert_f32'
    const behind = into === undefined ? matmulBehind.nothing : matmulBehind.addsInto
    const factors = [this.factor(a!), this.factor(b!)]
    const sources = into === undefined ? [...factors, routes!] : [...factors, into, routes!]
    return this.own(op, { experts, product: expertProducts[product], behind }, into ? [4] : shape, sources)
  }

  /** The gradient of a weight that x is, added to `into` itself; x is then nobody's. */
  protected expertsInto(x: Tensor, into: Tensor): Pointer | undefined {
    if (x.op !== 'byExpert' || !into.contiguous || into.dtype !== 'F32') return undefined
    const attributes = x.attributes as OpAttributes['byExpert']
    if (attributes.product !== 'weightsBack') return undefined
    return this.#expertProduct(attributes, x.shape, x.inputs, into)
  }

  /** `residual` [N, W] plus, by their shares, what the experts of each row made, [S, W] by slots. */
  mixExperts(made: Tensor, routes: Tensor, residual: Tensor, experts: number): Tensor<'mixExperts'> {
    const inputs = [made, routes, residual]
    const pointer = this.own('mix_experts', { experts }, residual.shape, inputs)
    return this.make('mixExperts', pointer, residual.shape, inputs, { experts })
  }

  /** Gradient of {@link mixExperts} with respect to what experts made. */
  mixExpertsBack(dy: Tensor, { inputs: [made, routes], attributes }: Tensor<'mixExperts'>): Tensor {
    const inputs = [dy, routes!]
    const pointer = this.own('mix_experts_back', attributes, made!.shape, inputs)
    return this.make('mixExpertsBack', pointer, made!.shape, inputs, {})
  }

  /** Gradient of {@link mixExperts} with respect to shares: [S, 1]. */
  sharesByExpertBack(dy: Tensor, { inputs: [made, routes], attributes }: Tensor<'mixExperts'>): Tensor {
    const inputs = [dy, made!, routes!]
    const shape = [made!.shape[0]!, 1]
    const pointer = this.own('shares_by_expert_back', attributes, shape, inputs)
    return this.make('sharesByExpertBack', pointer, shape, inputs, {})
  }
}
