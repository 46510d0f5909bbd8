/**
 * What a policy learns from: answers that it writes itself, graded, and compared with others to the same prompt. They are
 * made before the first step that learns from them, by the weights as they are then, and are gone behind the last.
 *
 * P prompts a step, G answers to each, P*G = batch * accumulate rows. A sample's seed follows from the job's, the step, the
 * place of its prompt and its own number: whoever makes the step again gets the same answers.
 */
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { type Clock, systemClock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { deriveSeed } from '../../base/random.ts'
import type { Device } from '../../runtime/device.ts'
import { type Batch, type BatchSource, emptyBatch } from '../batch.ts'
import { placeOf } from '../data/sample.ts'
import type { Decode, Decoded, DecodeRequest } from '../evaluate/decode.ts'
import type { TrainingJob } from '../job.ts'
import type { PolicyMethod } from '../methods/policy-fields.ts'
import type { PolicyBatch } from '../methods/policy-graph.ts'
import type { Team } from '../parallel/team.ts'
import type { Parameters } from '../parameters.ts'
import { type Comparison, comparedBy, meansOf, metricsOf } from './comparison.ts'
import type { Prompt, PromptData } from './prompt-data.ts'
import type { Reference } from './reference.ts'
import { type Graded, Rewards } from './rewards.ts'
import { RolloutFile, rolloutsName } from './rollout-file.ts'
import { sharedAnswers } from './shared-answers.ts'

export interface RolloutContext {
  parameters: Parameters
  device: Device
  decode: Decode | undefined
  /** Undefined where the method asks none. */
  reference: Reference | undefined
  team: Team | undefined
  /** Steps that earlier lives of the run did; undefined for a replay, which writes nothing. */
  stepsDone: number | undefined
  onNote: (text: string) => void
  clock?: Clock
}

export class Rollouts implements BatchSource {
  readonly #job: TrainingJob
  readonly #method: PolicyMethod
  readonly #data: PromptData
  readonly #context: RolloutContext
  readonly #decode: Decode
  readonly #rewards: Rewards
  readonly #file: RolloutFile | undefined
  readonly #clock: Clock
  #batches: PolicyBatch[] = []
  /** The step that the batches were made for. */
  #madeFor = -1
  #metrics: Readonly<Record<string, number>> = {}
  #saidNothingLearned = false

  /** Throws UserErrors for rewards that cannot be given, and where nobody decodes. */
  constructor(job: TrainingJob, method: PolicyMethod, data: PromptData, context: RolloutContext) {
    const { decode, stepsDone, team } = context
    if (decode === undefined) {
      throw new UserError('Nobody here can decode: the method grpo needs the serving engine.', {
        fix: 'Run the job by ropeway train.',
      })
    }
    this.#job = job
    this.#method = method
    this.#data = data
    this.#context = context
    this.#decode = decode
    this.#clock = context.clock ?? systemClock
    this.#rewards = new Rewards(job.rewards ?? [], job.baseFolder)
    const writes = stepsDone !== undefined && (team?.rank ?? 0) === 0
    this.#file = writes
      ? new RolloutFile(join(job.out, rolloutsName), method.rollouts_kept, stepsDone)
      : undefined
  }

  /** True where there are prompts that are never learned from. */
  get holdsOut(): boolean {
    return this.#data.held.length > 0
  }

  /** Answers to one step. */
  get #rows(): number {
    return this.#job.batch * this.#job.accumulate
  }

  at(index: number): PolicyBatch {
    const { accumulate } = this.#job
    const step = Math.floor(index / accumulate)
    assert(
      step >= this.#madeFor && step < this.#madeFor + this.#method.updates,
      'the answers are of this step',
    )
    return this.#batches[index % accumulate]!
  }

  samplesAt(index: number): string[] {
    const { batch, accumulate } = this.#job
    const { updates, group } = this.#method
    const rollout = Math.floor(index / accumulate / updates)
    const first = (index % accumulate) * batch
    const groups = new Set(Array.from({ length: batch }, (_, row) => Math.floor((first + row) / group)))
    return [...groups].map((number) => placeOf(this.#promptAt(rollout, number).source))
  }

  /** Answers for a step that begins a rollout; the steps behind it learn from the same ones. */
  async prepare(step: number): Promise<Readonly<Record<string, number>>> {
    if (step % this.#method.updates !== 0) {
      assert(this.#madeFor + (step % this.#method.updates) === step, 'a run goes on where answers begin')
      for (const batch of this.#batches) batch.isFresh = false
      return this.#metrics
    }
    const startedMs = this.#clock.nowMs()
    const rollout = step / this.#method.updates
    const prompts = Array.from({ length: this.#rows / this.#method.group }, (_, number) =>
      this.#promptAt(rollout, number),
    )
    const answers = await this.#answers(step, prompts)
    const gradedMs = this.#clock.nowMs()
    const compared = await this.#compared(prompts, answers)
    const batches = this.#batchesOf(prompts, answers, compared)
    const endMs = this.#clock.nowMs()
    if (this.#context.reference !== undefined)
      for (const batch of batches) batch.reference = await this.#context.reference.ask(batch)
    this.#batches = batches
    this.#madeFor = step
    this.#keep(step, prompts, answers, compared)
    this.#metrics = metricsOf(compared, answers, this.#method)
    this.#tellWhereNothingIsLearned(step)
    const seconds = {
      rollout_seconds: (gradedMs - startedMs) / 1000,
      grading_seconds: (endMs - gradedMs) / 1000,
    }
    return { ...this.#metrics, ...seconds }
  }

  /** The prompt of group `number` of a rollout. */
  #promptAt(rollout: number, number: number): Prompt {
    const { prompts, order } = this.#data
    return prompts[order.at((rollout * this.#rows) / this.#method.group + number)]!
  }

  /** One after the other: the group of the first prompt, of the second ... Processes of a team take turns at prompts. */
  async #answers(step: number, prompts: readonly Prompt[]): Promise<Decoded[]> {
    const { parameters, device, team } = this.#context
    const { group, tokens_max, temperature } = this.#method
    const { eosTokens } = this.#data.kit.tokenizer
    const stepSeed = deriveSeed(this.#job.seed, `answers of step ${step}`)
    const requests = prompts.map(({ tokens }, number) =>
      Array.from(
        { length: group },
        (_, sample): DecodeRequest => ({
          prompt: [...tokens],
          tokensMax: tokens_max,
          temperature,
          seed: deriveSeed(stepSeed, `prompt ${number}, sample ${sample}`),
          endings: eosTokens,
          logProbabilities: temperature === 1,
        }),
      ),
    )
    const own = requests.flatMap((some, number) =>
      number % (team?.size ?? 1) === (team?.rank ?? 0) ? some : [],
    )
    const decoded = own.length === 0 ? [] : await this.#decode(parameters, device, own)
    if (team === undefined) return decoded
    const owners = requests.flatMap((some, number) => some.map(() => number % team.size))
    return await sharedAnswers(team, owners, decoded, tokens_max)
  }

  /**
   * What greedy answers to the first `promptsMax` held-out prompts are worth, by the weights as they are: the mean reward, and
   * that of each by its name.
   */
  async heldOut(promptsMax: number): Promise<Record<string, number>> {
    const { parameters, device } = this.#context
    const prompts = this.#data.held.slice(0, promptsMax)
    assert(prompts.length > 0, 'there are held-out prompts')
    const requests = prompts.map(
      ({ tokens }, number): DecodeRequest => ({
        prompt: [...tokens],
        tokensMax: this.#method.tokens_max,
        temperature: 0,
        seed: number,
        endings: this.#data.kit.tokenizer.eosTokens,
      }),
    )
    // Greedy answers are the same in every process of a team.
    const { totals, scores } = await this.#graded(prompts, await this.#decode(parameters, device, requests))
    return meansOf(totals, scores)
  }

  async #compared(prompts: readonly Prompt[], answers: readonly Decoded[]): Promise<Comparison> {
    const { group, scale_rewards } = this.#method
    const asked = prompts.flatMap((prompt) => Array.from({ length: group }, () => prompt))
    return comparedBy(await this.#graded(asked, answers), group, scale_rewards)
  }

  /**
   * `prompts`: of every answer. The first process of a team grades: a program may say something else to everybody who asks.
   */
  async #graded(prompts: readonly Prompt[], answers: readonly Decoded[]): Promise<Graded> {
    const { team } = this.#context
    const { names } = this.#rewards
    const { tokenizer } = this.#data.kit
    const table = new Float64Array((names.length + 1) * answers.length)
    if ((team?.rank ?? 0) === 0) {
      const graded = await this.#rewards.grade(
        answers.map(({ tokens }, i) => {
          const { messages, expected = null, record } = prompts[i]!
          return {
            prompt: messages,
            answer: tokenizer.decode(tokens, { skipSpecial: true }),
            expected,
            record,
          }
        }),
      )
      table.set([...graded.totals, ...names.flatMap((name) => graded.scores.get(name)!)])
    }
    await team?.share(table)
    const column = (index: number) => [
      ...table.subarray(index * answers.length, (index + 1) * answers.length),
    ]
    const scores = new Map(names.map((name, i) => [name, column(i + 1)] as const))
    return { totals: column(0), scores }
  }

  #batchesOf(prompts: readonly Prompt[], answers: readonly Decoded[], compared: Comparison): PolicyBatch[] {
    const { batch: sequences, accumulate, context } = this.#job
    return Array.from({ length: accumulate }, (_, number) => {
      const batch = emptyPolicyBatch(sequences, context)
      for (let row = 0; row < sequences; row++) {
        const index = number * sequences + row
        const { tokens } = prompts[Math.floor(index / this.#method.group)]!
        layDown(batch, row, tokens, answers[index]!, compared.advantages[index]!, this.#method.loss)
      }
      return batch
    })
  }

  #keep(step: number, prompts: readonly Prompt[], answers: readonly Decoded[], compared: Comparison): void {
    if (this.#file === undefined) return
    const { tokenizer } = this.#data.kit
    this.#file.add(
      answers.map(({ tokens, ending }, i) => {
        const prompt = prompts[Math.floor(i / this.#method.group)]!
        return {
          step,
          at: placeOf(prompt.source),
          prompt: tokenizer.decode([...prompt.tokens]),
          answer: tokenizer.decode(tokens, { skipSpecial: true }),
          expected: prompt.expected ?? null,
          reward: compared.totals[i]!,
          scores: Object.fromEntries([...compared.scores].map(([name, scores]) => [name, scores[i]!])),
          advantage: compared.advantages[i]!,
          tokens: tokens.length + Number(ending !== undefined),
          cut: ending === undefined,
        }
      }),
    )
  }

  /** Said once: the metric says it of every step. */
  #tellWhereNothingIsLearned(step: number): void {
    if (this.#metrics.groups_without_signal !== 1 || this.#saidNothingLearned) return
    this.#saidNothingLearned = true
    this.#context.onNote(
      `In step ${step} all answers to each prompt have the same reward, so that nothing is learned from them. ` +
        'Give easier prompts, a reward with steps between wrong and right, a higher temperature or a larger group (method.grpo).',
    )
  }
}

function emptyPolicyBatch(sequences: number, tokens: number): PolicyBatch {
  const size = sequences * tokens
  return {
    ...emptyBatch(sequences, tokens),
    advantages: new Float32Array(size),
    sampled: new Float32Array(size),
    isFresh: true,
    reference: undefined,
    served: new Float32Array(size).fill(Number.NaN),
  }
}

/** Prompt and answer as one document; the answer's tokens count, the one that ends it among them. */
function layDown(
  batch: Batch & Pick<PolicyBatch, 'advantages' | 'served'>,
  row: number,
  prompt: Int32Array,
  { tokens: said, ending, logProbabilities }: Decoded,
  advantage: number,
  loss: PolicyMethod['loss'],
): void {
  const answer = ending === undefined ? said : [...said, ending]
  const all = [...prompt, ...answer]
  const first = row * batch.tokens
  assert(all.length <= batch.tokens, 'prompt and answer fit into a row')
  for (const [i, token] of all.entries()) {
    const place = first + i
    batch.ids[place] = token
    batch.positions[place] = i
    batch.documents![place] = 0
    const next = i + 1 - prompt.length
    if (next < 0 || next >= answer.length) continue
    batch.targets[place] = answer[next]!
    batch.weights[place] = loss === 'answers' ? 1 / answer.length : 1
    batch.advantages[place] = advantage
    batch.served[place] = logProbabilities[next] ?? Number.NaN
  }
}
