/** The prompt of an answer that goes on with the conversation's last message instead of beginning one of its own. */
import type { ChatRendering, ChatTemplate } from '../tokenizer/chat-template.ts'

/**
 * The conversation up to where the last message's text ends, without what closes its turn; undefined where the template
 * does not write the text as it came. A mark behind the text says where it ends: the text itself may stand elsewhere
 * too, and space at its end is nothing that a template could trim.
 */
export function openConversation(rendering: ChatRendering, template: ChatTemplate): string | undefined {
  const messages = rendering.messages as readonly { content: string }[]
  const earlier = messages.slice(0, -1)
  const last = messages.at(-1)!
  const { content } = last
  if (writesThinking(content)) {
    const opened = template.render({ ...rendering, messages: earlier, addGenerationPrompt: true })
    return (opens.test(content) ? opened.replace(thinkingAtEnd, '') : opened) + content
  }
  const mark = markFor(rendering)
  const marked = [...earlier, { ...last, content: content + mark }]
  const text = template.render({ ...rendering, messages: marked, addGenerationPrompt: false })
  const end = text.lastIndexOf(mark)
  if (end < 0) return undefined
  const open = text.slice(0, end)
  return open.endsWith(content.trimStart()) ? open : undefined
}

const opens = /^\s*<think>/
const thinkingAtEnd = /<think>\s*(<\/think>\s*)?$/

/**
 * Templates take thinking out of earlier answers, or put an empty block in front of a text that has none they can see.
 * What the model itself wrote goes behind what opens its turn.
 */
function writesThinking(content: string): boolean {
  return opens.test(content) || content.includes('</think>')
}

/** A word that nothing in the conversation holds. */
function markFor(rendering: ChatRendering): string {
  const taken = JSON.stringify(rendering)
  let mark = 'EndOfTheOpenMessage'
  while (taken.includes(mark)) mark += 'e'
  return mark
}
