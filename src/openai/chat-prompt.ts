import type { ChatRequest } from '../api/chat.ts'
import { messageOf, UserError } from '../base/errors.ts'
import { Problem } from '../http/problem.ts'
import { type ChatRendering, type ChatTemplate, templateMessage } from '../tokenizer/chat-template.ts'
import type { SpecialSpellings } from '../tokenizer/special-spellings.ts'
import { harmonyMessage, openAnswer, speaksHarmony } from './harmony.ts'
import { openConversation } from './open-message.ts'

/** A conversation as the model's template writes it. */
export interface ChatPrompt {
  text: string
  /** Where a special token is spelt that the client wrote and not the template: it is text there. */
  plainAt?: ReadonlySet<number>
}

/** What of a request the template gets to see. All of it but the roles is the client's own wording. */
type Written = Pick<ChatRequest, 'messages' | 'tools' | 'reasoning_effort' | 'chat_template_kwargs'>

/**
 * Throws the {@link Problem} when there is no template, or when it does not take the conversation. `checkLength` throws
 * where a text is too long for the model: it sees what the template wrote before anything else is done with it.
 */
export function chatPrompt(
  body: ChatRequest,
  template: ChatTemplate | undefined,
  spellings: SpecialSpellings,
  checkLength: (text: string) => void = () => {},
): ChatPrompt {
  if (template === undefined) {
    const message = 'This model has no chat template: use /v1/completions.'
    throw new Problem(400, 'no_chat_template', message, { param: 'messages' })
  }
  const { messages, reasoning_effort, chat_template_kwargs } = body
  const tools = body.tool_choice === 'none' ? undefined : body.tools
  const written: Written = { messages, tools, reasoning_effort, chat_template_kwargs }
  try {
    return spellings.rendered(written, (seen) => {
      const text = render(seen, template, body)
      // To veil each of a million spellings takes seconds.
      checkLength(text)
      return text
    })
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    throw new Problem(400, 'invalid_value', error.message, { param: 'messages' })
  }
}

/** How the conversation ends: with the opening of an answer, as it is, or inside its last message. */
type Ending = Pick<ChatRequest, 'add_generation_prompt' | 'continue_final_message'>

function render(written: Written, template: ChatTemplate, ending: Ending): string {
  const { messages, tools, reasoning_effort, chat_template_kwargs } = written
  const inChannels = speaksHarmony(template)
  const conversation = {
    messages: messages.map((message) => templateMessage(inChannels ? harmonyMessage(message) : message)),
    addGenerationPrompt: ending.add_generation_prompt ?? true,
    extra: { ...(reasoning_effort === undefined ? {} : { reasoning_effort }), ...chat_template_kwargs },
  }
  const text = (rendering: ChatRendering): string => {
    if (ending.continue_final_message !== true) return template.render(rendering)
    const open = inChannels
      ? openInChannels(messages, rendering, template)
      : openConversation(rendering, template)
    if (open !== undefined) return open
    const message = "The model's chat template rewrites the last message, so nothing can go on behind it."
    throw new Problem(400, 'chat_template_refused', message, { param: 'continue_final_message' })
  }
  try {
    const withoutTools = text(conversation)
    if (tools === undefined || tools.length === 0) return withoutTools
    const withTools = text({ ...conversation, tools })
    if (withTools !== withoutTools) return withTools
  } catch (error) {
    if (error instanceof Problem) throw error
    // Templates are programs of the model's maker: what they do not take, they say by throwing.
    throw new Problem(400, 'chat_template_refused', messageOf(error), { param: 'messages' })
  }
  const message = "The model's chat template has no place for tools."
  throw new Problem(400, 'unsupported_parameter', message, { param: 'tools' })
}

/** The conversation up to its last message, and that as an answer in channels which is not at its end. */
function openInChannels(
  messages: Written['messages'],
  rendering: ChatRendering,
  template: ChatTemplate,
): string | undefined {
  const { content } = messages.at(-1)!
  if (typeof content !== 'string' || content === '') return undefined
  const earlier = rendering.messages.slice(0, -1)
  const { text } = openAnswer(content)
  return template.render({ ...rendering, messages: earlier, addGenerationPrompt: true }) + text
}
