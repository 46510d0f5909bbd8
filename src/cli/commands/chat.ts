import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import type { EngineClient } from '../../serve/messages.ts'
import { type ChatMessage, chatEncoder } from '../chat-encoder.ts'
import { type EngineFlags, launchEngine, withEngineOptions } from '../engine-options.ts'
import { type SamplingFlags, withSamplingOptions } from '../sampling-options.ts'
import { speak } from '../speak.ts'
import { bold, dim, interactive, note } from '../terminal.ts'
import { loadTextModel, resolveModel, type TextModel } from '../text-model.ts'

interface ChatFlags extends EngineFlags, SamplingFlags {
  system?: string
}

export function chatCommand(program: Command): void {
  const command = program
    .command('chat')
    .description('talk to a model in the terminal')
    .argument('<model>', 'folder, .gguf file, or the name of a model')
    .option('--system <text>', 'what the model is told before the talk')
  withEngineOptions(withSamplingOptions(command)).action(async (given: string, flags: ChatFlags) => {
    const model = loadTextModel(resolveModel(given))
    const engine = await launchEngine(model.path, flags)
    try {
      if (model.template === undefined) {
        note(dim('This model has no chat template: it continues what you write, as it was trained to.'))
      }
      note(dim('/reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer.'))
      await talk(engine, model, flags)
    } finally {
      await engine.close(0)
    }
  })
}

async function talk(engine: EngineClient, model: TextModel, flags: ChatFlags): Promise<void> {
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: interactive })
  const beginning: ChatMessage[] =
    flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]
  let messages = [...beginning]
  let answering: AbortController | undefined
  const promptOf = chatEncoder(model)
  lines.on('SIGINT', () => {
    if (answering === undefined) lines.close()
    else answering.abort()
  })
  const ask = () => {
    lines.setPrompt(bold('> '))
    lines.prompt()
  }
  ask()
  for await (const line of lines) {
    const said = line.trim()
    if (said === '/exit') break
    if (said === '/reset') messages = [...beginning]
    if (said !== '' && !said.startsWith('/reset')) {
      messages.push({ role: 'user', content: said })
      answering = new AbortController()
      const prompt = promptOf(messages)
      const { text } = await speak(
        engine,
        model,
        prompt,
        flags,
        (piece) => process.stdout.write(piece),
        answering.signal,
      )
      answering = undefined
      process.stdout.write('\n')
      messages.push({ role: 'assistant', content: text })
    }
    ask()
  }
  lines.close()
}
