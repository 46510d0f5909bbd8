/**
 * Samples, preference pairs and verdicts from files, one after the other as they are read.
 *
 * What is wrong with a record is a {@link DataProblem} that names its line; whether it stops the work or is
 * counted and left out is the caller's decision.
 */
import { UserError } from '../../base/errors.ts'
import { neverInterrupted, type Pause } from '../../base/pauses.ts'
import type { ChatTemplate } from '../../tokenizer/chat-template.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import { ChatRenderer, type ConversationEncoder } from './chat-renderer.ts'
import type { Conversation, Message } from './conversation.ts'
import { type Example, ExampleReader, type Format } from './examples.ts'
import type { GapMaker } from './gap-maker.ts'
import { PlainPrompts, textSamples } from './plain-prompts.ts'
import { dataEndings, type ReadOptions, readRecords } from './records.ts'
import {
  type PreferencePair,
  placeOf,
  type RatedSample,
  type Sample,
  type SourceLine,
  trainedTokens,
} from './sample.ts'
import { type FileSource, sourceFiles } from './source-files.ts'

/** Files of one kind. */
export interface DataSource extends ReadOptions {
  files: FileSource
  /** What the records hold; the first one of a file shows it when it is not given. */
  format?: Format | undefined
}

export type ProblemCode = 'empty' | 'nothing_trained' | 'too_long' | 'outside_vocabulary' | 'broken'

export interface DataProblem {
  code: ProblemCode
  source: SourceLine
  /** What is wrong, without the place. */
  what: string
  fix: string
}

export interface LoadOptions {
  /** What relative paths start at. */
  baseFolder: string
  /** What the job calls these sources, for messages. */
  field?: string
  /** Conversations and prompts longer than this are cut, or are a problem. Texts of any length are left whole. */
  contextMax: number
  tooLong?: 'cut' | 'refuse'
  /** Rows of the model's embedding; the tokenizer's own size by default. */
  vocabularySize?: number
  /** Learn the token that ends an answer, too (the default). */
  trainEndOfTurn?: boolean
  /** Makes gaps in texts. */
  gaps?: GapMaker | undefined
  /** Hears of what is left out; without it the first problem is thrown. */
  onProblem?: (problem: DataProblem) => void
  /** Hears what people should know about the template. */
  onNote?: (text: string) => void
  /** Hears the format of each file once it is known. */
  onFile?: (file: string, format: Format) => void
  /** Called within long texts. */
  pause?: Pause
  /** Hears of samples that were cut. */
  onCut?: (sample: SourceLine, tokens: number) => void
}

/** Chats, prompts with completions, and texts. `template` undefined: prompts and completions are joined as they are. */
export async function* loadSamples(
  sources: readonly DataSource[],
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: LoadOptions,
): AsyncGenerator<Sample> {
  const maker = new SampleMaker(tokenizer, template, options)
  const { pause = neverInterrupted } = options
  let texts = 0
  for await (const example of maker.examples(sources)) {
    if (example.kind === 'text') {
      const gaps = options.gaps && { maker: options.gaps, number: texts++ }
      yield* maker.usable(await textSamples(tokenizer, example.text, example.source, pause, gaps), true)
    } else if (example.kind === 'chat')
      yield* maker.usable(maker.samplesOf(example.conversation, example.source))
    else throw otherKind(example, 'chats, prompts or texts')
  }
  maker.tellNotes()
}

/** Pairs for DPO and its kin: the prompt's tokens are the same in both and weigh 0. */
export async function* loadPreferencePairs(
  sources: readonly DataSource[],
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: LoadOptions,
): AsyncGenerator<PreferencePair> {
  const maker = new SampleMaker(tokenizer, template, options)
  for await (const example of maker.examples(sources)) {
    if (example.kind !== 'pair') throw otherKind(example, 'preference pairs')
    const { source } = example
    const [chosen] = maker.answer(example.prompt, example.chosen, source)
    const [rejected] = maker.answer(example.prompt, example.rejected, source)
    if (chosen === undefined || rejected === undefined) continue
    const problem = problemOfPair(chosen, rejected)
    if (problem === undefined) yield { chosen, rejected, source }
    else maker.report({ ...problem, source })
  }
  maker.tellNotes()
}

function problemOfPair(chosen: Sample, rejected: Sample): Omit<DataProblem, 'source'> | undefined {
  if (!samePrompt(chosen, rejected)) {
    const what = 'the chat template writes different prompts before the two answers'
    return { code: 'broken', what, fix: 'Give another template (data.template).' }
  }
  const { length } = chosen.tokens
  if (length !== rejected.tokens.length || chosen.tokens.some((token, i) => token !== rejected.tokens[i]))
    return undefined
  const fix = 'Remove the record, or raise context where they differ only behind it.'
  return { code: 'nothing_trained', what: 'its two answers are the same, so that it prefers neither', fix }
}

/** Answers with verdicts, for KTO. */
export async function* loadRatedSamples(
  sources: readonly DataSource[],
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  options: LoadOptions,
): AsyncGenerator<RatedSample> {
  const maker = new SampleMaker(tokenizer, template, options)
  for await (const example of maker.examples(sources)) {
    if (example.kind !== 'rating') throw otherKind(example, 'answers with a verdict')
    const { messages } = example.conversation
    const prompt = { ...example.conversation, messages: messages.slice(0, -1) }
    const [sample] = maker.answer(prompt, messages.slice(-1), example.source)
    if (sample !== undefined) yield { sample, desirable: example.desirable }
  }
  maker.tellNotes()
}

/** Everything that people wrote in these records, for learning a tokenizer from. */
export async function* loadTexts(
  sources: readonly DataSource[],
  options: LoadOptions,
): AsyncGenerator<string> {
  for await (const example of examplesOf(sources, options)) {
    if (example.kind === 'text') yield example.text
    else {
      const messages =
        example.kind === 'pair'
          ? [...example.prompt.messages, ...example.chosen, ...example.rejected]
          : example.conversation.messages
      for (const { content } of messages) if (content !== null) yield content
    }
  }
}

/** The files that a source stands for. */
export function recordFiles(
  source: DataSource,
  { baseFolder, field = 'data.train' }: Pick<LoadOptions, 'baseFolder' | 'field'>,
): string[] {
  const choice = { field, endings: dataEndings, endingNames: '.jsonl, .json, .csv, .tsv, .txt or .md' }
  return sourceFiles(source.files, baseFolder, choice)
}

async function* examplesOf(sources: readonly DataSource[], options: LoadOptions): AsyncGenerator<Example> {
  for (const source of sources) {
    for (const file of recordFiles(source, options)) {
      const reader = new ExampleReader(source.format)
      let isFirst = true
      for await (const record of readRecords(file, source)) {
        const example = reader.read(record)
        if (isFirst) options.onFile?.(file, reader.format!)
        isFirst = false
        yield example
      }
    }
  }
}

class SampleMaker {
  readonly #encoder: ConversationEncoder
  readonly #options: LoadOptions
  readonly #vocabularySize: number

  constructor(tokenizer: Tokenizer, template: ChatTemplate | undefined, options: LoadOptions) {
    const { trainEndOfTurn = true } = options
    this.#options = options
    this.#vocabularySize = options.vocabularySize ?? tokenizer.vocabularySize
    this.#encoder =
      template === undefined
        ? new PlainPrompts(tokenizer, { trainEndOfTurn })
        : new ChatRenderer(tokenizer, template, { trainEndOfTurn })
  }

  examples(sources: readonly DataSource[]): AsyncGenerator<Example> {
    return examplesOf(sources, this.#options)
  }

  samplesOf(conversation: Conversation, source: SourceLine): Sample[] {
    const empty = conversation.messages.findIndex(isEmptyAnswer)
    if (empty < 0) return this.#encoder.samples(conversation, source)
    const what = `message ${empty}, an answer, is empty`
    this.report({ code: 'empty', source, what, fix: 'Remove the record, or give that message weight: 0.' })
    return []
  }

  /** The sample of an answer to a prompt of which nothing counts; none when it is not usable. */
  answer(prompt: Conversation, answer: readonly Message[], source: SourceLine): Sample[] {
    const masked = prompt.messages.map((message) => ({ ...message, weight: 0 }))
    const samples = this.samplesOf({ ...prompt, messages: [...masked, ...answer] }, source)
    return this.usable(samples.slice(-1))
  }

  /** Those that can be learned from, cut to the context unless they are whole texts. */
  usable(samples: readonly Sample[], isText = false): Sample[] {
    return samples.flatMap((sample) => {
      const cut = isText ? sample : this.#cut(sample)
      const problem = cut === undefined ? undefined : this.#problemOf(cut, sample)
      if (problem !== undefined) this.report(problem)
      return cut === undefined || problem !== undefined ? [] : [cut]
    })
  }

  report(problem: DataProblem): void {
    if (this.#options.onProblem === undefined) throw refusalOf(problem)
    this.#options.onProblem(problem)
  }

  tellNotes(): void {
    for (const text of this.#encoder.notes) this.#options.onNote?.(text)
  }

  #cut(sample: Sample): Sample | undefined {
    const { contextMax, tooLong = 'cut' } = this.#options
    const { tokens, weights, source } = sample
    if (tokens.length <= contextMax) return sample
    if (tooLong === 'refuse') {
      const what = `it has ${tokens.length} tokens and the context takes ${contextMax}`
      this.report({
        code: 'too_long',
        source,
        what,
        fix: 'Raise context, shorten the record, or set too_long: cut.',
      })
      return undefined
    }
    this.#options.onCut?.(source, tokens.length)
    return { tokens: tokens.slice(0, contextMax), weights: weights.slice(0, contextMax), source }
  }

  #problemOf(sample: Sample, whole: Sample): DataProblem | undefined {
    const { tokens, source } = sample
    const problem = (code: ProblemCode, what: string, fix: string) => ({ code, source, what, fix })
    if (tokens.length < 2) return problem('empty', 'it has no text to learn from', 'Remove the record.')
    const stranger = tokens.find((token) => token < 0 || token >= this.#vocabularySize)
    if (stranger !== undefined) {
      const what = `token ${stranger} lies outside the model's vocabulary of ${this.#vocabularySize}`
      return problem('outside_vocabulary', what, "Use the model's own tokenizer.")
    }
    if (trainedTokens(sample) > 0) return undefined
    if (trainedTokens(whole) > 0) {
      const what = `none of its first ${tokens.length} tokens is learned: the prompt alone fills the context`
      return problem('nothing_trained', what, 'Raise context, or shorten the prompt.')
    }
    const fix = 'Give it an assistant message with text whose weight is not 0, or remove the record.'
    return problem('nothing_trained', 'no token of it is learned', fix)
  }
}

/** It would teach to say nothing. */
function isEmptyAnswer({ role, content, weight, tool_calls }: Message): boolean {
  return role === 'assistant' && weight !== 0 && tool_calls === undefined && (content ?? '').trim() === ''
}

export function refusalOf({ source, what, fix }: DataProblem): UserError {
  return new UserError(`${placeOf(source)}: ${what}.`, { fix })
}

const kindNames: { readonly [Kind in Example['kind']]: string } = {
  text: 'a text',
  chat: 'a chat',
  pair: 'a preference pair',
  rating: 'an answer with a verdict',
}

function otherKind({ kind, source }: Example, expected: string): UserError {
  return new UserError(
    `${placeOf(source)}: this is ${kindNames[kind]}, and the method learns from ${expected}.`,
    {
      failure: 'usage',
      fix: 'Choose the method for this data, or say what the records are: format: chat, prompt, preferences, ratings or text.',
    },
  )
}

function samePrompt(chosen: Sample, rejected: Sample): boolean {
  const start = chosen.weights.findIndex((weight) => weight !== 0)
  const other = rejected.weights.findIndex((weight) => weight !== 0)
  return start === other && chosen.tokens.subarray(0, start).every((token, i) => token === rejected.tokens[i])
}
