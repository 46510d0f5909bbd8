/** Records of a task: what is asked, and what is expected. */
import { UserError } from '../../base/errors.ts'
import type { ChatTemplate } from '../../tokenizer/chat-template.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import type { Conversation } from '../data/conversation.ts'
import { ExampleReader } from '../data/examples.ts'
import { type DataRecord, readRecords } from '../data/records.ts'
import { placeOf, type SourceLine } from '../data/sample.ts'
import type { TextKit } from '../text-kit.ts'
import type { Task } from './fields.ts'

export interface Question {
  prompt: number[]
  expected: string
  /** Of multiple choice: the answers to choose from, as tokens behind the prompt. */
  choices: number[][]
  /** Which of them is right. */
  right: number
}

/** A prompt as the model was trained to see one: by the template where there is one, else as it is. */
export function promptTokens(kit: TextKit, asChat: boolean, text: string): number[] {
  const { tokenizer, template } = kit
  if (!asChat || template === undefined) return tokenizer.encode(text, { parseSpecial: false })
  return chatTokens(tokenizer, template, [{ role: 'user', content: text }])
}

/** What the model reads before its answer: by the template where there is one, else the texts one after the other. */
export function conversationTokens({ tokenizer, template }: TextKit, conversation: Conversation): number[] {
  const { messages, tools, extra } = conversation
  if (template === undefined)
    return tokenizer.encode(messages.map(({ content }) => content ?? '').join('\n'), { parseSpecial: false })
  const text = template.render({
    messages: messages.map((one) => ({ ...one })),
    addGenerationPrompt: true,
    ...(tools !== undefined && { tools }),
    ...(extra !== undefined && { extra }),
  })
  return tokenizer.encode(text, { addSpecial: false })
}

function chatTokens(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly { role: string; content: string | null }[],
): number[] {
  const text = template.render({ messages: messages.map((one) => ({ ...one })), addGenerationPrompt: true })
  return tokenizer.encode(text, { addSpecial: false })
}

/** Throws UserErrors that name the line. `path` is absolute. */
export async function questionsOf(
  task: Task,
  path: string,
  kit: TextKit,
  asChat: boolean,
): Promise<Question[]> {
  const questions: Question[] = []
  const reader = new ExampleReader(undefined)
  const options = task.columns === undefined ? {} : { columns: task.columns }
  for await (const record of readRecords(path, options)) {
    if (questions.length >= task.limit) break
    questions.push(
      task.kind === 'choice' ? choiceOf(record, kit, asChat) : answerOf(reader, record, kit, asChat),
    )
  }
  if (questions.length === 0)
    throw new UserError(`${path} has no record to evaluate with.`, {
      fix: 'Give it records, or leave the task out.',
    })
  return questions
}

function answerOf(reader: ExampleReader, record: DataRecord, kit: TextKit, asChat: boolean): Question {
  const example = reader.read(record)
  if (example.kind !== 'chat') throw wrong(record.source, 'a task takes prompts with completions, or chats')
  const { messages } = example.conversation
  const last = messages.at(-1)!
  if (last.role !== 'assistant') throw wrong(record.source, 'the last message is the answer that is expected')
  const before = messages.slice(0, -1)
  const { tokenizer, template } = kit
  const prompt =
    asChat && template !== undefined
      ? chatTokens(tokenizer, template, before)
      : tokenizer.encode(before.map(({ content }) => content ?? '').join('\n'), { parseSpecial: false })
  return { prompt, expected: last.content ?? '', choices: [], right: 0 }
}

function choiceOf({ value, source }: DataRecord, kit: TextKit, asChat: boolean): Question {
  const { prompt, question, choices, answer } = value
  const text = prompt ?? question
  if (typeof text !== 'string') throw wrong(source, 'prompt: expected a text')
  if (!Array.isArray(choices) || choices.length < 2 || !choices.every((choice) => typeof choice === 'string'))
    throw wrong(source, 'choices: expected a list of two texts or more')
  const right = typeof answer === 'number' ? answer : choices.indexOf(String(answer))
  if (!Number.isInteger(right) || right < 0 || right >= choices.length)
    throw wrong(source, 'answer: expected the number of a choice, counted from 0, or its text')
  return {
    prompt: promptTokens(kit, asChat, text),
    expected: choices[right]!,
    choices: choices.map((choice: string) =>
      kit.tokenizer.encode(choice, { addSpecial: false, parseSpecial: false }),
    ),
    right,
  }
}

function wrong(source: SourceLine, why: string): UserError {
  return new UserError(`${placeOf(source)}: ${why}.`, {
    fix: 'Correct the record, or name its fields by columns.',
  })
}
