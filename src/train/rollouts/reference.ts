/** The model that a policy is held to: the base without its adapter, or a frozen copy of what training starts from. */
import { type Pause, withPauses } from '../../base/pauses.ts'
import type { Device } from '../../runtime/device.ts'
import type { TrainingJob } from '../job.ts'
import type { PolicyMethod } from '../methods/policy-fields.ts'
import { type PolicyBatch, PolicyGraph } from '../methods/policy-graph.ts'
import { Parameters, wholeModel } from '../parameters.ts'
import { frozenModel } from '../prepare-model.ts'

export class Reference implements Disposable {
  readonly #model: Parameters
  readonly #graph: PolicyGraph

  /** `shape` is that of the batches that it is asked about; `trained` is the model in training. */
  static async load(
    job: TrainingJob,
    method: PolicyMethod,
    trained: Parameters,
    device: Device,
    supervisedMax: number,
    pause: Pause,
  ): Promise<Reference> {
    const model =
      job.method?.lora === undefined
        ? await withPauses(
            frozenModel((job.model as { from: string }).from, 'f32', device, job.context),
            pause,
          )
        : withoutAdapter(trained, device)
    return new Reference(job, method, model, device, supervisedMax)
  }

  private constructor(
    job: TrainingJob,
    method: PolicyMethod,
    model: Parameters,
    device: Device,
    supervisedMax: number,
  ) {
    this.#model = model
    const shape = { sequences: job.batch, tokens: job.context, precision: job.precision, supervisedMax }
    this.#graph = new PolicyGraph(method, model, device, shape, 'evaluate')
  }

  /** Log-probability of every target that counts: [N]. */
  async ask(batch: PolicyBatch): Promise<Float32Array> {
    return await this.#graph.logProbabilities(batch)
  }

  [Symbol.dispose](): void {
    this.#graph.dispose()
    this.#model.dispose()
  }
}

/** The frozen weights beside an adapter in training; they stay its model's. */
function withoutAdapter({ definition, weights }: Parameters, device: Device): Parameters {
  const lent = weights.lent()
  return new Parameters(definition, lent, device, { ...wholeModel(definition, lent), specs: [] })
}
