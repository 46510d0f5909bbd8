import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { speaksHarmony } from '../../openai/harmony.ts'
import { type ChatMessage, chatEncoder } from '../chat-encoder.ts'
import { askDeployed, type Deployed, deployedAs } from '../deployed.ts'
import { type EngineFlags, launchEngine, withEngineOptions } from '../engine-options.ts'
import { type SamplingFlags, withSamplingOptions } from '../sampling-options.ts'
import { speak } from '../speak.ts'
import { bold, dim, interactive, note } from '../terminal.ts'
import { findModel, loadTextModel, resolveModel } from '../text-model.ts'

interface ChatFlags extends EngineFlags, SamplingFlags {
  system?: string
}

export function chatCommand(program: Command): void {
  const command = program
    .command('chat')
    .description('talk to a model in the terminal')
    .argument('<model>', 'folder, .gguf file, a name in the models folder, or a deployment')
    .option('--system <text>', 'what the model is told before the talk')
  withEngineOptions(withSamplingOptions(command)).action(async (given: string, flags: ChatFlags) => {
    const deployed = findModel(given) === undefined ? await deployedAs(given) : undefined
    if (deployed !== undefined) return await talk(partnerThere(deployed, flags), flags)
    const model = loadTextModel(resolveModel(given))
    const engine = await launchEngine(model.path, flags)
    try {
      if (model.template === undefined) note(dim(untaught))
      const promptOf = chatEncoder(model)
      const partner: Partner = async (messages, write, signal) => {
        const inChannels = model.template !== undefined && speaksHarmony(model.template)
        await speak(engine, model, promptOf(messages), flags, write, signal, [], inChannels)
      }
      await talk(partner, flags)
    } finally {
      await engine.close(0)
    }
  })
}

/** Answers a talk. */
type Partner = (
  messages: readonly ChatMessage[],
  write: (text: string) => void,
  signal: AbortSignal,
) => Promise<void>

const untaught = 'This model has no chat template: it continues what you write, as it was trained to.'

function partnerThere(deployed: Deployed, flags: ChatFlags): Partner {
  let isTaught = true
  return async (messages, write, signal) => {
    const ask = async (path: '/completions' | '/chat/completions', body: Record<string, unknown>) => {
      try {
        await askDeployed(deployed, path, body, flags, write, signal)
      } catch (error) {
        // What was said until then counts.
        if (!signal.aborted) throw error
      }
    }
    try {
      if (isTaught) return await ask('/chat/completions', { messages })
    } catch (error) {
      if (!(error instanceof UserError) || !error.message.includes('no chat template')) throw error
      note(dim(untaught))
      isTaught = false
    }
    await ask('/completions', { prompt: messages.map(({ content }) => content).join('\n') })
  }
}

async function talk(partner: Partner, flags: ChatFlags): Promise<void> {
  note(dim('/reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer.'))
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: interactive })
  const beginning: ChatMessage[] =
    flags.system === undefined ? [] : [{ role: 'system', content: flags.system }]
  let messages = [...beginning]
  let answering: AbortController | undefined
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
      let text = ''
      const write = (piece: string) => {
        text += piece
        process.stdout.write(piece)
      }
      await partner(messages, write, answering.signal)
      answering = undefined
      process.stdout.write('\n')
      messages.push({ role: 'assistant', content: text })
    }
    ask()
  }
  lines.close()
}
