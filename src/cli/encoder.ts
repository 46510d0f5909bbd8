import type { EncodeOptions } from '../tokenizer/tokenizer.ts'
import { Thread } from './thread.ts'

export interface EncoderOrder {
  text: string
  options: EncodeOptions
}

/**
 * A model's tokenizer on a thread of its own: encoding a prompt of some hundred thousand characters takes
 * tenths of a second, in which a server must go on writing its streams.
 */
export class EncoderThread {
  readonly #thread: Thread<EncoderOrder, Int32Array>

  constructor(modelPath: string) {
    this.#thread = new Thread('encoder-thread', modelPath, 'encodes prompts')
    this.#thread.start()
  }

  /** Rejects with a UserError when the text cannot be encoded or the thread died over it. */
  async encode(text: string, options: EncodeOptions): Promise<Int32Array> {
    return await this.#thread.ask({ text, options })
  }

  async close(): Promise<void> {
    await this.#thread.close()
  }
}
