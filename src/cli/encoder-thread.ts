/** What the thread runs that turns long prompts into tokens. */
import { workerData } from 'node:worker_threads'
import type { EncoderOrder } from './encoder.ts'
import { loadTextModel } from './text-model.ts'
import { answerOrders } from './thread.ts'

const { tokenizer } = loadTextModel(workerData.modelPath)

answerOrders(({ text, options }: EncoderOrder) => {
  const answer = Int32Array.from(tokenizer.encode(text, options))
  return { answer, transfer: [answer.buffer] }
})
