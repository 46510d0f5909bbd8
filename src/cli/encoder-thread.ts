/** What the thread runs that turns long prompts into tokens. */

import { parentPort, workerData } from 'node:worker_threads'
import { assert } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { EncoderAnswer, EncoderOrder } from './encoder.ts'
import { loadTextModel } from './text-model.ts'

assert(parentPort !== null, 'the encoder runs in a thread of its own')
const port = parentPort
const { tokenizer } = loadTextModel(workerData.modelPath)

port.on('message', ({ id, text, options }: EncoderOrder) => {
  try {
    const tokens = Int32Array.from(tokenizer.encode(text, options))
    port.postMessage({ id, tokens } satisfies EncoderAnswer, [tokens.buffer])
  } catch (error) {
    port.postMessage({ id, failure: messageOf(error) } satisfies EncoderAnswer)
  }
})
