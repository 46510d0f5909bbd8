/** What completions continue and embeddings are of. */
import { z } from 'zod'

/** A prompt as text or as token ids. */
export type Prompt = string | number[]

const tokenMax = 0x7fffffff

/**
 * OpenAI's four forms (a text, texts, token ids, lists of token ids) as one list of prompts. By hand, because
 * prompts are by far the longest lists here and a union would walk them once per form.
 */
export function prompts(countMax: number) {
  return z.unknown().transform((value, context): Prompt[] => {
    const wrong = (message: string, ...path: number[]): never => {
      context.addIssue({ code: 'custom', message, path })
      return z.NEVER
    }
    if (typeof value === 'string') return [value]
    if (!Array.isArray(value)) {
      return wrong('Expected a text, a list of texts, a list of token ids, or a list of such lists.')
    }
    if (value.length === 0) return wrong('Expected at least one prompt.')
    if (typeof value[0] === 'number') {
      const bad = wrongToken(value)
      return bad === undefined ? [value] : wrong('Expected a token id.', bad)
    }
    if (value.length > countMax) return wrong(`At most ${countMax} prompts in one request.`)
    const kind = typeof value[0]
    for (const [index, prompt] of value.entries()) {
      if (kind === 'string' && typeof prompt === 'string') continue
      if (kind === 'string' || !Array.isArray(prompt)) return wrong('Expected prompts of one kind.', index)
      const bad = wrongToken(prompt)
      if (bad !== undefined) return wrong('Expected a token id.', index, bad)
    }
    return value
  })
}

function wrongToken(values: readonly unknown[]): number | undefined {
  const index = values.findIndex(
    (value) => !Number.isInteger(value) || (value as number) < 0 || (value as number) > tokenMax,
  )
  return index === -1 ? undefined : index
}
