/**
 * Conversations as tokens with weights: what the assistant says counts, all else is masked.
 *
 * A template is a program, so where an answer begins is found by asking it: the prompt that it writes before
 * the answer (with the generation prompt, exactly what a server sends to the model) must be the beginning of
 * what it writes with the answer; the rest up to the end-of-turn token is the answer. Answers that a template
 * writes the same way later on, as history, are learned in one sample; for one that rewrites history (as
 * Qwen3 drops older reasoning) each answer gets a sample of its own, with the history that it would see.
 */
import { UserError } from '../../base/errors.ts'
import { type ChatTemplate, templateMessage } from '../../tokenizer/chat-template.ts'
import { SpecialSpellings, type Veil } from '../../tokenizer/special-spellings.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import type { Conversation, Message } from './conversation.ts'
import { encodePieces, type Piece } from './encode-pieces.ts'
import { placeOf, type Sample, type SourceLine } from './sample.ts'

/** Makes samples of conversations. */
export interface ConversationEncoder {
  /**
   * One sample, or several where history is rewritten; the last one ends with the last answer that counts.
   * Without such an answer there is one in which nothing has weight.
   */
  samples(conversation: Conversation, source: SourceLine): Sample[]
  /** What people should know about how the template was dealt with. */
  readonly notes: ReadonlySet<string>
}

export interface RenderOptions {
  /** Learn when to stop, too. */
  trainEndOfTurn: boolean
}

/** One answer in rendered text. */
interface Turn {
  /** What the template writes up to and with the answer's end-of-turn token. */
  text: string
  /** Where the answer begins in it. */
  start: number
  /** Where its end-of-turn token begins; the text's length where there is none. */
  endOfTurn: number
  weight: number
}

interface Rendered {
  text: string
  /** Answers in `text`, from first to last. */
  turns: Turn[]
}

export class ChatRenderer implements ConversationEncoder {
  readonly #tokenizer: Tokenizer
  readonly #template: ChatTemplate
  readonly #options: RenderOptions
  readonly #spellings: SpecialSpellings
  /** Whether the template was seen to write tools. */
  #toolsChecked = false
  readonly notes = new Set<string>()

  constructor(tokenizer: Tokenizer, template: ChatTemplate, options: RenderOptions) {
    this.#tokenizer = tokenizer
    this.#template = template
    this.#options = options
    this.#spellings = new SpecialSpellings(tokenizer)
  }

  samples(conversation: Conversation, source: SourceLine): Sample[] {
    return located(source, () => {
      const { seen, veil } = this.#veiled(conversation)
      const groups = this.#grouped(this.#turns(seen), seen)
      return groups.map((rendered) => this.#encoded(rendered, veil, source))
    })
  }

  /** The conversation with the special tokens that it spells veiled. */
  #veiled(conversation: Conversation): { seen: Conversation; veil: Veil | undefined } {
    const { tools } = conversation
    if (tools !== undefined && !this.#toolsChecked) this.#checkTools(conversation)
    if (!this.#spellings.occurIn(conversation)) return { seen: conversation, veil: undefined }
    const veil = this.#spellings.veil(
      this.#render(conversation, conversation.messages.length, false),
      conversation,
    )
    return {
      seen: {
        ...veil.over(conversation),
        messages: conversation.messages.map((one) => veiledMessage(one, veil)),
      },
      veil,
    }
  }

  #checkTools(conversation: Conversation): void {
    const { tools: _, ...without } = conversation
    const count = conversation.messages.length
    if (this.#render(conversation, count, false) === this.#render(without, count, false)) {
      throw new UserError("The model's chat template has no place for tools.", {
        fix: 'Give another template (data.template), or leave the tools out.',
      })
    }
    this.#toolsChecked = true
  }

  #turns(conversation: Conversation): Turn[] {
    const turns: Turn[] = []
    for (const [index, message] of conversation.messages.entries()) {
      const weight = message.role === 'assistant' ? (message.weight ?? 1) : 0
      if (weight > 0) turns.push(this.#turn(conversation, index, weight))
    }
    return turns
  }

  #turn(conversation: Conversation, index: number, weight: number): Turn {
    const prompt = this.#render(conversation, index, true)
    const whole = this.#render(conversation, index + 1, false)
    const start = whole.startsWith(prompt) ? prompt.length : this.#opening(conversation, index, prompt, whole)
    const { begin, end } = this.#endOfTurn(whole, start)
    checkCalls(conversation.messages[index]!, whole.slice(start))
    return { text: whole.slice(0, end), start, endOfTurn: begin, weight }
  }

  /**
   * Some templates open an answer (`<think>`) in a way in which they do not write one. The answer then starts
   * where the two part, as long as they part inside the opening.
   */
  #opening(conversation: Conversation, index: number, prompt: string, whole: string): number {
    const before = this.#render(conversation, index, false)
    let shared = 0
    while (shared < prompt.length && prompt[shared] === whole[shared]) shared++
    if (shared >= before.length && whole.startsWith(before)) {
      this.notes.add(
        `The template opens an answer with ${JSON.stringify(prompt.slice(shared))}, which is not what it writes for the answers of this data; they are learned without it.`,
      )
      return shared
    }
    throw new UserError(
      `the chat template does not write the prompt of message ${index} as the beginning of the conversation with it; they part at ${JSON.stringify(whole.slice(shared, shared + 40))}.`,
      { fix: 'Give that message weight: 0, or give another template (data.template).' },
    )
  }

  /** The last end-of-turn token of an answer: an ending token of the tokenizer, or else any special one. */
  #endOfTurn(text: string, start: number): { begin: number; end: number } {
    const endings = this.#tokenizer.eosTokens.map((token) => this.#tokenizer.textOf(token) ?? '')
    for (const candidates of [endings, this.#spellings.texts]) {
      let found = { begin: -1, end: -1 }
      for (const candidate of candidates) {
        const begin = candidate === '' ? -1 : text.lastIndexOf(candidate)
        const end = begin + candidate.length
        if (begin >= start && end > found.end) found = { begin, end }
      }
      if (found.begin >= 0) return found
    }
    return { begin: text.length, end: text.length }
  }

  /** Answers together where the last one's text has the others just as they were, from last to first. */
  #grouped(turns: readonly Turn[], conversation: Conversation): Rendered[] {
    if (turns.length === 0) {
      return [{ text: this.#render(conversation, conversation.messages.length, false), turns: [] }]
    }
    const groups: Rendered[] = []
    let left = [...turns]
    while (left.length > 0) {
      const { text } = left.at(-1)!
      const together = left.filter((turn) => text.startsWith(turn.text))
      groups.unshift({ text, turns: together })
      left = left.filter((turn) => !together.includes(turn))
    }
    return groups
  }

  #encoded({ text, turns }: Rendered, veil: Veil | undefined, source: SourceLine): Sample {
    const pieces: Piece[] = []
    let done = 0
    const add = (end: number, weight: number) => {
      if (end > done) {
        const part = text.slice(done, end)
        pieces.push({ ...(veil === undefined ? { text: part } : veil.lift(part)), weight })
      }
      done = end
    }
    for (const turn of turns) {
      add(turn.start, 0)
      add(turn.endOfTurn, turn.weight)
      add(turn.text.length, this.#options.trainEndOfTurn ? turn.weight : 0)
    }
    add(text.length, 0)
    return { ...encodePieces(this.#tokenizer, pieces), source }
  }

  #render({ messages, tools, extra }: Conversation, count: number, addGenerationPrompt: boolean): string {
    return this.#template.render({
      messages: messages.slice(0, count).map(templateMessage),
      ...(tools !== undefined && { tools }),
      ...(extra !== undefined && { extra }),
      addGenerationPrompt,
    })
  }
}

/** Roles are not anybody's wording, and the template compares them. */
function veiledMessage(message: Message, veil: Veil): Message {
  return { ...veil.over(message), role: message.role }
}

function checkCalls({ tool_calls }: Message, answer: string): void {
  const missing = tool_calls?.find((call) => !answer.includes(call.function.name))
  if (missing === undefined) return
  throw new UserError(`the chat template does not write the call of the tool ${missing.function.name}.`, {
    fix: 'Give a template that knows tool calls (data.template: chatml is one).',
  })
}

function located<Value>(source: SourceLine, work: () => Value): Value {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    const { failure, fix } = error
    throw new UserError(`${placeOf(source)}: ${error.message}`, {
      failure,
      ...(fix !== undefined && { fix }),
      cause: error,
    })
  }
}
