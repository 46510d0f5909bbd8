/** Everything that is measured at an evaluation: held-out loss, bits per byte, tasks, the sampling panel. */
import { isAbsolute, join, resolve } from 'node:path'
import { UserError } from '../../base/errors.ts'
import { deriveSeed } from '../../base/random.ts'
import type { Device } from '../../runtime/device.ts'
import type { BatchSource } from '../batch.ts'
import type { TrainingJob } from '../job.ts'
import type { TextKit } from '../text-kit.ts'
import type { Trainer } from '../trainer.ts'
import { rightChoices } from './choices.ts'
import type { Decode, DecodeRequest } from './decode.ts'
import type { Task } from './fields.ts'
import { type GradeAll, graderOf } from './graders.ts'
import { keepSamples, type PanelEntry, panelName } from './panel.ts'
import { promptTokens, type Question, questionsOf } from './questions.ts'

export interface Evaluation {
  stepsDone: number
  batches: number
  /** Mean loss on held-out data, in nats per token (or per pair); undefined where nothing is held out. */
  loss: number | undefined
  /** The same as bits per byte of the text, whatever the tokenizer; undefined for preferences. */
  bitsPerByte: number | undefined
  /** Share of right answers, by name of the task. */
  tasks: Record<string, number>
  /** Of a policy: the mean reward on held-out prompts as `reward`, and that of each as `reward_NAME`. */
  rewards: Record<string, number>
  samples: PanelEntry[]
}

/** Of a policy: what answers to so many held-out prompts are worth. */
export type HeldOutRewards = (promptsMax: number) => Promise<Record<string, number>>

/** Under the names that a run's metrics have: the held-out loss or rewards, and the share of right answers of each task. */
export function evaluationMetrics({
  loss,
  tasks,
  rewards,
}: Pick<Evaluation, 'loss' | 'tasks' | 'rewards'>): Record<string, number> {
  const shares = Object.entries(tasks).map(([name, share]) => [`task_${name}`, share])
  const means = Object.entries(rewards).map(([name, mean]) => [`held_out_${name}`, mean])
  return { ...(loss !== undefined && { held_out_loss: loss }), ...Object.fromEntries([...means, ...shares]) }
}

interface Prepared {
  task: Task
  questions: Question[]
  grade: GradeAll
}

export class Evaluations {
  readonly #job: TrainingJob
  readonly #kit: TextKit
  readonly #device: Device
  readonly #validation: BatchSource | undefined
  readonly #decode: Decode | undefined
  readonly #asChat: boolean
  readonly #tasks: readonly Prepared[]
  readonly #heldOut: HeldOutRewards | undefined
  readonly #bytes = new Map<number, { tokens: number; bytes: number }>()

  /** Reads the tasks' records. Throws UserErrors for what cannot be evaluated. */
  static async prepare(
    job: TrainingJob,
    kit: TextKit,
    device: Device,
    validation: BatchSource | undefined,
    decode: Decode | undefined,
    heldOut?: HeldOutRewards,
  ): Promise<Evaluations> {
    const { tasks, samples } = job.evaluate
    const asksForText = samples !== undefined || tasks.some(({ kind }) => kind !== 'choice')
    if (asksForText && decode === undefined)
      throw new UserError('Nobody here can decode: tasks and samples need the serving engine.', {
        fix: 'Run the job by ropeway train.',
      })
    const asChat = 'train' in job.data && kit.template !== undefined
    const prepared: Prepared[] = []
    for (const [index, task] of tasks.entries()) {
      const path = isAbsolute(task.data) ? task.data : resolve(job.baseFolder, task.data)
      const questions = await questionsOf(task, path, kit, asChat)
      prepared.push({ task, questions, grade: graderOf(task, `evaluate.tasks.${index}`) })
    }
    return new Evaluations(job, kit, device, validation, decode, asChat, prepared, heldOut)
  }

  private constructor(
    job: TrainingJob,
    kit: TextKit,
    device: Device,
    validation: BatchSource | undefined,
    decode: Decode | undefined,
    asChat: boolean,
    tasks: readonly Prepared[],
    heldOut: HeldOutRewards | undefined,
  ) {
    this.#job = job
    this.#kit = kit
    this.#device = device
    this.#validation = validation
    this.#decode = decode
    this.#asChat = asChat
    this.#tasks = tasks
    this.#heldOut = heldOut
  }

  /** True where there is anything to measure. */
  get any(): boolean {
    const { samples } = this.#job.evaluate
    const measures = [this.#validation, this.#heldOut, samples]
    return measures.some((one) => one !== undefined) || this.#tasks.length > 0
  }

  /** Throws GivenUp between two of its parts, or two batches, once `signal` is aborted. */
  async run(trainer: Trainer, batches: number, signal?: AbortSignal): Promise<Evaluation> {
    const { stepsDone } = trainer
    const loss = this.#validation && (await trainer.evaluate(this.#validation, batches, signal))
    const tasks: Record<string, number> = {}
    for (const { task, questions, grade } of this.#tasks) {
      await trainer.giveUpIf(signal)
      tasks[task.name] = (await this.#right(trainer, task, questions, grade)) / questions.length
    }
    await trainer.giveUpIf(signal)
    const rewards = (await this.#heldOut?.(batches * this.#job.batch)) ?? {}
    const samples = await this.#samples(trainer)
    if (samples.length > 0) keepSamples(join(this.#job.out, panelName), samples)
    return {
      stepsDone,
      batches,
      loss,
      bitsPerByte: this.#bitsPerByte(loss, batches),
      tasks,
      rewards,
      samples,
    }
  }

  /** What the best checkpoint has least of: a policy has no loss, and is the better the more it is worth. */
  measure({ loss, tasks, rewards: { reward } }: Evaluation): number | undefined {
    const { best } = this.#job.evaluate
    if (best !== 'loss') return 1 - tasks[best]!
    return reward === undefined ? loss : -reward
  }

  async #right(
    trainer: Trainer,
    task: Task,
    questions: readonly Question[],
    grade: GradeAll,
  ): Promise<number> {
    const { tokenizer } = this.#kit
    const lengthOf = (choice: readonly number[]) => [...tokenizer.decode(choice)].length
    if (task.kind === 'choice')
      return await rightChoices(trainer.parameters, this.#device, questions, lengthOf, this.#job.context)
    const answers = await this.#answers(
      trainer,
      questions.map(({ prompt }) => prompt),
      task.tokens_max,
      0,
    )
    const answered = answers.map((answer, i) => ({ answer, expected: questions[i]!.expected }))
    return grade(answered).filter(Boolean).length
  }

  async #samples(trainer: Trainer): Promise<PanelEntry[]> {
    const { samples } = this.#job.evaluate
    if (samples === undefined) return []
    const prompts = samples.prompts.map((prompt) => promptTokens(this.#kit, this.#asChat, prompt))
    const texts = await this.#answers(trainer, prompts, samples.tokens_max, samples.temperature)
    const { stepsDone } = trainer
    return samples.prompts.map((prompt, i) => ({ stepsDone, prompt, text: texts[i]! }))
  }

  async #answers(
    { parameters }: Trainer,
    prompts: readonly (readonly number[])[],
    tokensMax: number,
    temperature: number,
  ): Promise<string[]> {
    const { contextMax } = parameters.definition.config
    const { tokenizer } = this.#kit
    const requests = prompts.map((prompt, i): DecodeRequest => {
      const room = Math.max(1, contextMax - tokensMax)
      return {
        // Of a prompt that leaves no room for an answer the end is kept.
        prompt: prompt.slice(-room),
        tokensMax: Math.min(tokensMax, contextMax - Math.min(prompt.length, room)),
        temperature,
        seed: deriveSeed(this.#job.seed, `answer ${i}`),
        endings: tokenizer.eosTokens,
      }
    })
    const answers = await this.#decode!(parameters, this.#device, requests)
    return answers.map(({ tokens }) => tokenizer.decode(tokens, { skipSpecial: true }))
  }

  #bitsPerByte(loss: number | undefined, batches: number): number | undefined {
    const { dpo, orpo, kto } = this.#job.method ?? {}
    if (loss === undefined || this.#validation === undefined || (dpo ?? orpo ?? kto) !== undefined)
      return undefined
    let counted = this.#bytes.get(batches)
    if (counted === undefined) this.#bytes.set(batches, (counted = this.#counted(this.#validation, batches)))
    return counted.bytes === 0 ? undefined : (loss * counted.tokens) / (counted.bytes * Math.LN2)
  }

  /** Supervised tokens of the first batches, and the bytes of text that they stand for; special tokens are no text. */
  #counted(source: BatchSource, batches: number): { tokens: number; bytes: number } {
    const { tokenizer } = this.#kit
    const counted = { tokens: 0, bytes: 0 }
    for (let i = 0; i < batches; i++) {
      const { targets, weights } = source.at(i)
      for (const [place, target] of targets.entries()) {
        if (weights[place] === 0) continue
        counted.tokens++
        if (!tokenizer.isSpecial(target)) counted.bytes += tokenizer.bytesOf(target).length
      }
    }
    return counted
  }
}
