import { harmonyMessage, speaksHarmony } from '../openai/harmony.ts'
import { SpecialSpellings } from '../tokenizer/special-spellings.ts'
import type { TextModel } from './text-model.ts'

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant'
  content: string
}

/** Makes prompts of a talk in the terminal. What people type into a template is text, whatever it spells. */
export function chatEncoder({
  template,
  tokenizer,
}: Pick<TextModel, 'template' | 'tokenizer'>): (messages: readonly ChatMessage[]) => number[] {
  if (template === undefined)
    return (messages) => tokenizer.encode(messages.map(({ content }) => content).join('\n'))
  const spellings = new SpecialSpellings(tokenizer)
  const inChannels = speaksHarmony(template)
  return (messages) => {
    const { text, plainAt } = spellings.rendered(messages, (seen) =>
      template.render({ messages: inChannels ? seen.map(harmonyMessage) : seen, addGenerationPrompt: true }),
    )
    // The template writes the beginning-of-sequence token itself.
    return tokenizer.encode(text, { addSpecial: false, ...(plainAt !== undefined && { plainAt }) })
  }
}
