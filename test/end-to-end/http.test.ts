import { describe, expect, test } from 'vitest'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { post } from '../openai/harness.ts'
import { openAiSuite } from '../openai/suite.ts'
import { sharedData } from '../shared.ts'
import { servedModel, serveReal } from './served.ts'

const stories = sharedData('models', 'stories260K', 'hf')
const babyllama = sharedData('models', 'babyllama-char-1M', 'babyllama-q8_0.gguf')

/** stories260K was never taught to chat; this is enough of a template to try the way of a chat. */
const template = new ChatTemplate(
  '{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}' +
    '{% if add_generation_prompt %}assistant:{% endif %}',
  { bos_token: '<s>' },
)

if (stories !== undefined) {
  openAiSuite('the OpenAI surface over a real engine', async () => {
    const served = await serveReal(stories, {}, { template })
    return {
      url: served.url,
      model: servedModel,
      engine: served.engine,
      tokenizer: served.tokenizer,
      hasChat: true,
      close: async () => await served[Symbol.asyncDispose](),
    }
  })
}

describe.skipIf(babyllama === undefined)('a GGUF file behind the OpenAI surface', () => {
  test('answers the same text twice and has no chat without a template', async () => {
    await using served = await serveReal(babyllama!)
    const body = { model: servedModel, prompt: 'MENENIUS:', max_tokens: 40, temperature: 0 }
    const texts = await Promise.all(
      [1, 2].map(async () => {
        const answer = await (await post(`${served.url}/v1/completions`, body)).json()
        return (answer as { choices: { text: string }[] }).choices[0]!.text
      }),
    )
    expect(texts[0]).toMatch(/\w/)
    expect(texts[1]).toBe(texts[0])
    const messages = [{ role: 'user', content: 'hi' }]
    expect((await post(`${served.url}/v1/chat/completions`, { model: servedModel, messages })).status).toBe(
      400,
    )
  })
})
