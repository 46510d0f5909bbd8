/**
 * Keeps a mixture's experts in use: E times the sum over experts of the part of tokens that use one, times the mean share that
 * the softmax of the router gives it (Fedus 2021, equations 4 to 6). Even use gives K, all tokens in the same experts E. Both factors
 * are of all layers together, as transformers counts (load_balancing_loss_func); only the shares have a gradient.
 *
 * N rows, of which padding does not count; E experts, K used, S = N K slots.
 */
import type { ModelConfig } from '../models/architecture.ts'
import type { Graph } from '../runtime/graph.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { Batch } from './batch.ts'
import type { LogitSlope } from './gradients.ts'

/** How much it weighs beside the loss: what the model's own file says, or what transformers takes where it says nothing. */
export function balanceOf({ modelType, source, mixture }: ModelConfig): number {
  if (mixture === undefined) return 0
  const own = source.router_aux_loss_coef
  return typeof own === 'number' ? own : modelType === 'olmoe' ? 0.01 : 0.001
}

/** Rows that a layer computes. */
interface CountedRows {
  /** [N, 1]: 1 for those that count, 0 for the others. */
  counted: Tensor
  /** [N, 1]: how much a row that counts moves the router. */
  slopes: Tensor
}

export class RouterBalance {
  readonly #coefficient: number
  readonly #experts: number
  readonly #graph: Graph
  readonly #rows: readonly CountedRows[]
  /** Rows of each layer, in all. */
  readonly #layers: CountedRows[] = []
  readonly #counts: Tensor[] = []
  #used: Tensor | undefined
  #busiest = 0
  #runs = 0

  /** `rowCounts`: how many rows a layer may compute: all, and in the last layer those with a loss. */
  constructor(graph: Graph, experts: number, coefficient: number, rowCounts: readonly number[]) {
    this.#graph = graph
    this.#experts = experts
    this.#coefficient = coefficient
    this.#rows = rowCounts.map((rows) => ({
      counted: graph.input('F32', [rows, 1], 'rows that count'),
      slopes: graph.input('F32', [rows, 1], 'slopes of rows that count'),
    }))
  }

  /** The logits [N, E] as the router is to read them: on the way back the slope of the balance is added to theirs. */
  seen(ops: Ops, logits: Tensor): Tensor {
    const rows = this.#rowsOf(logits)
    this.#layers.push(rows)
    if (this.#coefficient === 0) return logits
    const slope: LogitSlope = (ops, x) => this.#slope(ops, x, rows.slopes)
    return ops.balanced(logits, { slope })
  }

  /** Told which experts each row of a layer uses: [N, E], 1 where it does. */
  use(ops: Ops, marks: Tensor): void {
    const { counted } = this.#rowsOf(marks)
    const attributes = { aside: false, precise: true } as const
    this.#counts.push(ops.matmul(ops.transposed(counted), ops.transposed(marks), attributes)) // [1, E]
  }

  #rowsOf(x: Tensor): CountedRows {
    return this.#rows.find(({ counted }) => counted.shape[0] === x.shape[0])!
  }

  /** How often each expert is used, by all layers: [1, E]. */
  #usedBy(ops: Ops): Tensor {
    this.#used ??= this.#counts.reduce((sum, counts) => ops.add(sum, counts))
    return this.#used
  }

  /** Gradient of the logits: slope p (used - the sum of p used), with p their softmax. */
  #slope(ops: Ops, logits: Tensor, slopes: Tensor): Tensor {
    const p = ops.softmax(ops.detached(logits), undefined, 1) //                               [N, E]
    const used = ops.mul(p, this.#usedBy(ops))
    return ops.mul(ops.sub(used, ops.mul(p, ops.sumRows(used))), slopes)
  }

  /** Keeps what the graph counts until it was read. */
  keep(): void {
    for (const counts of this.#counts) this.#graph.output(counts)
  }

  /** `rows`: the rows of a last layer that computes fewer, of which the rest only fill up; `share`: the batch's part of its step. */
  write(batch: Batch, rows: Int32Array | undefined, share: number): void {
    const isCounted = (row: number) => (batch.documents?.[row] ?? 0) >= 0
    const counted = this.#rows.map(({ counted: { shape } }, i) =>
      Float32Array.from({ length: shape[0]! }, (_, place) => {
        const row = i === 0 || rows === undefined ? place : rows[place]
        return row !== undefined && isCounted(row) ? 1 : 0
      }),
    )
    const numbers = counted.map((values) => values.reduce((sum, value) => sum + value, 0))
    const total = this.#layers.reduce((sum, layer) => sum + numbers[this.#rows.indexOf(layer)]!, 0)
    const slope = (this.#coefficient * share * this.#experts) / total ** 2
    for (const [i, { counted: into, slopes }] of this.#rows.entries()) {
      into.write(counted[i]!)
      slopes.write(counted[i]!.map((value) => value * slope))
    }
  }

  /** Looks at what was used, after the graph ran. */
  read(): void {
    const busiest = this.#counts.map((counts) => {
      const values = counts.toFloats()
      return Math.max(...values) / values.reduce((a, b) => a + b)
    })
    this.#busiest += Math.max(...busiest)
    this.#runs++
  }

  /** Means since the last call: of all uses in a layer the part of its busiest expert, of the layer where that is largest. */
  takeMetrics(): Record<string, number> {
    const metrics = this.#runs === 0 ? {} : { busiest_expert: this.#busiest / this.#runs }
    this.#busiest = this.#runs = 0
    return metrics
  }
}
