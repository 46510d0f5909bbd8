import { byteTokenizer } from './byte-tokenizer.ts'
import { harness, model } from './harness.ts'
import { openAiSuite } from './suite.ts'

openAiSuite('the OpenAI surface over a scripted engine', async () => {
  const { url, engine, server } = await harness({ apiKeys: ['secret'] })
  return {
    url,
    model,
    apiKey: 'secret',
    engine,
    tokenizer: byteTokenizer(),
    hasChat: true,
    close: () => server.close(0),
  }
})
