/** Everything about a job that is data, for jobs that learn from answers of their own: prompts, and what is expected. */
import { createHash } from 'node:crypto'
import { UserError } from '../../base/errors.ts'
import { deriveSeed, uniformAt } from '../../base/random.ts'
import type { Conversation } from '../data/conversation.ts'
import { EpochOrder } from '../data/epoch-order.ts'
import { ExampleReader, formatOf } from '../data/examples.ts'
import { type DataProblem, recordFiles } from '../data/load.ts'
import { countProblem, emptyReport, listOf } from '../data/material.ts'
import type { Preparing } from '../data/preparing.ts'
import { type DataRecord, readRecords } from '../data/records.ts'
import { problemCount, refuseUnusable } from '../data/refusals.ts'
import { placeOf, type Sample, type SourceLine } from '../data/sample.ts'
import type { SampleData } from '../data/sample-data.ts'
import { sidesByDraw } from '../data/sample-list.ts'
import { hashOfBytes, type StoreReport } from '../data/sample-store.ts'
import { conversationTokens } from '../evaluate/questions.ts'
import type { TrainingJob } from '../job.ts'
import { givenKit, type JobData, vocabularySizeOf } from '../job-data.ts'
import type { PolicyMethod } from '../methods/policy-fields.ts'
import { checkTemplate, type TextKit, textKitFrom, withTemplate } from '../text-kit.ts'
import { missingInRecord } from './rewards.ts'

export interface Prompt {
  tokens: Int32Array
  messages: Conversation['messages']
  /** The record's own answer; undefined where it has none. */
  expected: string | undefined
  record: DataRecord['value']
  source: SourceLine
}

export interface PromptData extends JobData {
  prompts: readonly Prompt[]
  /** What is never learned from. */
  held: readonly Prompt[]
  /** Which prompt stands at which place of the run. */
  order: EpochOrder
}

/** They are in memory, with their records. */
const promptsMax = 200_000

/**
 * `earlier` is the folder of the checkpoint that a run goes on from. Without `refuses`, what cannot be asked is left out
 * and stands in the reports.
 */
export async function preparePrompts(
  job: TrainingJob,
  method: PolicyMethod,
  earlier: string | undefined,
  preparing: Preparing,
  refuses = true,
): Promise<PromptData> {
  const { data } = job
  if (!('train' in data) || !('from' in job.model)) {
    throw new UserError('The method grpo needs model: {from: FOLDER} and data: {train: FILES}.', {
      failure: 'usage',
    })
  }
  const kit = earlier === undefined ? withTemplate(givenKit(job), data.template) : textKitFrom(earlier)
  checkTemplate(kit)
  preparing.onNote('Reading the prompts.')
  const reader = new PromptReader(job, method, kit)
  const read = await reader.read(data.train, 'data.train', preparing)
  const { prompts, held } =
    typeof data.validation === 'number'
      ? divided(read, data.validation, job.seed)
      : { prompts: read, held: await reader.read(data.validation, 'data.validation', preparing) }
  const { reports } = reader
  if (refuses) refuseUnusable(reports, data, kit)
  const skipped = problemCount(reports)
  if (skipped > 0) preparing.onNote(`${skipped} records are left out.`)
  if (prompts.length === 0) {
    // What is wrong with held-out records is not why there is nothing to learn from.
    refuseUnusable(reports.slice(0, data.train.length), data, kit)
    throw new UserError('The field data.train has no prompt to answer.', { fix: 'Give it more records.' })
  }
  return promptData(job, method, kit, { prompts, held }, reports)
}

/** Equal prompts end on the same side. */
function divided(all: readonly Prompt[], share: number, seed: number): Pick<PromptData, 'prompts' | 'held'> {
  if (share === 0 || all.length === 0) return { prompts: all, held: [] }
  const draw = deriveSeed(seed, 'held-out prompts')
  const draws = Float64Array.from(all, ({ tokens }) => uniformAt(draw, hashOfBytes(viewOf(tokens))))
  const sides = sidesByDraw(draws, share)
  const chosen = (numbers: Int32Array) => Array.from(numbers, (number) => all[number]!)
  return { prompts: chosen(sides.left), held: chosen(sides.held) }
}

function viewOf({ buffer, byteOffset, byteLength }: Int32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}

class PromptReader {
  readonly reports: StoreReport[] = []
  readonly #job: TrainingJob
  readonly #method: PolicyMethod
  readonly #kit: TextKit
  readonly #vocabularySize: number

  constructor(job: TrainingJob, method: PolicyMethod, kit: TextKit) {
    this.#job = job
    this.#method = method
    this.#kit = kit
    this.#vocabularySize = vocabularySizeOf(job, kit)
  }

  /** What is asked by these records. `field` is what the job calls them. */
  async read(sources: SampleData['train'], field: string, { pause }: Preparing): Promise<Prompt[]> {
    const prompts: Prompt[] = []
    for (const source of sources) {
      const report: StoreReport = { ...emptyReport(), files: [] }
      this.reports.push(report)
      for (const path of recordFiles(source, { baseFolder: this.#job.baseFolder, field })) {
        const examples = new ExampleReader(source.format)
        for await (const record of readRecords(path, source)) {
          if (record.source.line % 64 === 0) await pause()
          this.#add(record, examples, report, prompts)
        }
        report.files.push({ path, format: examples.format ?? 'prompt' })
      }
    }
    return prompts
  }

  #add(record: DataRecord, examples: ExampleReader, report: StoreReport, prompts: Prompt[]): void {
    const { source } = record
    if (prompts.length >= promptsMax) {
      throw new UserError(`${placeOf(source)}: there are more than ${promptsMax} prompts.`, {
        fix: 'Give the job fewer: it asks a batch of them in each step.',
      })
    }
    const prompt = this.#promptOf(record, examples)
    const problem = this.#problemOf(prompt)
    if (problem !== undefined) {
      countProblem(report, { ...problem, source })
      return
    }
    prompts.push(prompt)
    report.samples++
    report.tokens += prompt.tokens.length
    report.longestTokens = Math.max(report.longestTokens, prompt.tokens.length)
    // Answers end with an ending token wherever there is one.
    if (this.#kit.tokenizer.eosTokens.length > 0) report.endingSamples++
  }

  #promptOf(record: DataRecord, examples: ExampleReader): Prompt {
    const { value, source } = record
    const { conversation, expected } = askedBy(record, examples)
    const tokens = Int32Array.from(conversationTokens(this.#kit, conversation))
    return { tokens, messages: conversation.messages, expected, record: value, source }
  }

  #problemOf({ tokens, expected, record }: Prompt): Omit<DataProblem, 'source'> | undefined {
    const { context, rewards = [] } = this.#job
    const { tokens_max } = this.#method
    if (tokens.length === 0)
      return { code: 'empty', what: 'its prompt has no token', fix: 'Remove the record.' }
    if (tokens.length + tokens_max > context) {
      return {
        code: 'too_long',
        what: `its prompt has ${tokens.length} tokens, and with an answer of ${tokens_max} the context of ${context} is too short`,
        fix: 'Raise context, lower method.grpo.tokens_max, or shorten the record.',
      }
    }
    const stranger = tokens.find((token) => token >= this.#vocabularySize)
    if (stranger !== undefined) {
      return {
        code: 'outside_vocabulary',
        what: `token ${stranger} lies outside the model's vocabulary of ${this.#vocabularySize}`,
        fix: "Use the model's own tokenizer.",
      }
    }
    const missing = missingInRecord(rewards, record)
    if (missing !== undefined) {
      return {
        code: 'broken',
        what: `it has no ${missing.place}, which the reward ${missing.reward} compares`,
        fix: 'Add the field, or remove the record.',
      }
    }
    const exact = rewards.find(({ kind }) => kind === 'exact')
    if (exact === undefined || expected !== undefined) return undefined
    return {
      code: 'broken',
      what: `it has no answer that the reward ${exact.name} could compare with`,
      fix: 'Give it one (completion, or a last message of the assistant), or remove the record.',
    }
  }
}

const promptNames = ['prompt', 'question', 'instruction']

/** The conversation in front of the answer, and the answer where the record has one. */
function askedBy(
  { value, source }: DataRecord,
  examples: ExampleReader,
): { conversation: Conversation; expected: string | undefined } {
  const isBare = formatOf(value) === undefined && promptNames.some((name) => value[name] !== undefined)
  const record = isBare ? { value: { ...value, completion: '' }, source } : { value, source }
  const example = examples.read(record)
  if (example.kind !== 'chat') {
    throw new UserError(`${placeOf(source)}: grpo takes prompts, with or without completions, or chats.`, {
      failure: 'usage',
      fix: 'Write records such as {"prompt": "...", "completion": "..."} or {"messages": [...]}.',
    })
  }
  const { conversation } = example
  const last = conversation.messages.at(-1)!
  const hasAnswer = last.role === 'assistant'
  const messages = hasAnswer ? conversation.messages.slice(0, -1) : conversation.messages
  if (messages.length === 0)
    throw new UserError(`${placeOf(source)}: there is nothing in front of the answer.`, {
      fix: 'Put what the model is asked into a message of the user.',
    })
  const expected = hasAnswer && !isBare ? (last.content ?? '') : undefined
  return { conversation: { ...conversation, messages }, expected }
}

function promptData(
  job: TrainingJob,
  { group, updates }: PolicyMethod,
  kit: TextKit,
  { prompts, held }: Pick<PromptData, 'prompts' | 'held'>,
  reports: readonly StoreReport[],
): PromptData {
  const tokens = tokensOf(prompts)
  const hash = createHash('sha256')
  for (const { messages, expected, record, tokens } of prompts) {
    hash.update(viewOf(tokens))
    hash.update(`${JSON.stringify([messages, expected ?? null, record])}\n`)
  }
  const order = new EpochOrder(prompts.length, deriveSeed(job.seed, 'training batches'))
  return {
    kit,
    prompts,
    held,
    order,
    training: {
      at: () => {
        throw new Error('answers are there once the model has written them')
      },
    },
    validation: undefined,
    packed: true,
    supervisedMax: supervisedMaxOf(job),
    hash: hash.digest('hex'),
    index: { bytes: 8 * tokens, laterBytes: order.bytes },
    summary: { trainingTokens: tokens, validationTokens: tokensOf(held), prompts: prompts.length },
    material: {
      kind: 'prompts',
      training: listOf(prompts.map(sampleOf)),
      validation: listOf(held.map(sampleOf)),
      reports,
      fillRate: tokens / (prompts.length * job.context),
      passTokens: prompts.length * group * job.context * updates,
    },
    [Symbol.dispose]: () => undefined,
  }
}

/** To be counted and looked at: nothing of a prompt is learned. */
function sampleOf({ tokens, source }: Prompt): Sample {
  return { tokens, weights: new Float32Array(tokens.length), source }
}

function tokensOf(prompts: readonly Prompt[]): number {
  return prompts.reduce((sum, { tokens }) => sum + tokens.length, 0)
}

/** Tokens of answers in one micro-batch, at most. */
function supervisedMaxOf({ batch, context, method }: TrainingJob): number {
  return batch * Math.min(method!.grpo!.tokens_max, context - 1)
}
