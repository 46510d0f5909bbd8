/** A chunk of a stream as replicas send it, completions and chat alike; what is not named here passes as it is. */
export interface Chunk {
  id?: string
  created?: number
  model?: string
  choices?: ChunkChoice[]
  usage?: ChunkUsage | null
  error?: { code?: string | null; message?: string }
}

interface ChunkChoice {
  index: number
  text?: string
  delta?: { role?: string; content?: string | null; tool_calls?: ToolCall[] }
  /** Of an answer that comes as a whole. */
  message?: { content?: string | null; tool_calls?: ToolCall[] }
  finish_reason?: string | null
  /** Ids of the tokens behind the text so far, from replicas that know us by their gateway key. */
  ropeway_tokens?: number[]
}

export interface ToolCall {
  index?: number
  id?: string
  type?: string
  function?: { name?: string; arguments?: string }
}

export interface ChunkUsage {
  prompt_tokens: number
  /** Absent for embeddings. */
  completion_tokens?: number
  prompt_tokens_details?: { cached_tokens?: number }
}

/** What another replica needs to go on with one choice; null when the choice has not begun. */
export type Continuation = { tokens: number[]; characters: number; finished?: boolean } | null

interface ChoiceProgress {
  tokens: number[]
  characters: number
  finished: boolean
}

/** What a client has got of a stream so far, and how another replica goes on from there. */
export class Progress {
  readonly #choices = new Map<number, ChoiceProgress>()
  #anonymousTokens = 0
  #resumable = true

  /** Nothing of any choice was passed on. */
  get isEmpty(): boolean {
    return this.#choices.size === 0
  }

  /** Every text came with its tokens and no tool was called, so another replica can go on behind it. */
  get resumable(): boolean {
    return this.#resumable
  }

  /** Tokens of all choices; where a replica names none, one for each piece of text. */
  get tokenCount(): number {
    let count = this.#anonymousTokens
    for (const { tokens } of this.#choices.values()) count += tokens.length
    return count
  }

  /** Notes what a chunk brings. Returns whether any of it is text. */
  take({ choices = [] }: Chunk): boolean {
    let hasText = false
    for (const choice of choices) {
      const text = choice.text ?? choice.delta?.content ?? ''
      const opensOnly = choice.delta?.role !== undefined && text === ''
      if (opensOnly && choice.finish_reason == null) continue
      const progress = this.#of(choice.index)
      progress.characters += text.length
      // Another replica would find the call again, under another id.
      const hasCalls = (choice.delta?.tool_calls?.length ?? 0) > 0
      if (hasCalls) this.#resumable = false
      if (text !== '' || hasCalls) hasText = true
      if (choice.ropeway_tokens !== undefined) progress.tokens.push(...choice.ropeway_tokens)
      else if (text !== '') {
        this.#resumable = false
        this.#anonymousTokens++
      }
      if (choice.finish_reason != null) progress.finished = true
    }
    return hasText
  }

  continuation(choices: number): Continuation[] {
    return Array.from({ length: choices }, (_, index) => {
      const progress = this.#choices.get(index)
      if (progress === undefined) return null
      const { tokens, characters, finished } = progress
      return { tokens, characters, ...(finished && { finished }) }
    })
  }

  #of(index: number): ChoiceProgress {
    let progress = this.#choices.get(index)
    if (progress === undefined) {
      progress = { tokens: [], characters: 0, finished: false }
      this.#choices.set(index, progress)
    }
    return progress
  }
}
