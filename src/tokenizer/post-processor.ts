import { UserError } from '../base/errors.ts'
import { JsonFields, unknownComponent } from './json-fields.ts'

/** The special tokens that go before and behind a single text. */
export interface PostProcessor {
  readonly before: readonly number[]
  readonly behind: readonly number[]
}

const nothing: PostProcessor = { before: [], behind: [] }

const rules: Readonly<Record<string, (fields: JsonFields) => PostProcessor>> = {
  // ByteLevel only corrects character offsets, which Ropeway does not report.
  ByteLevel: () => nothing,
  TemplateProcessing: template,
  BertProcessing: framed,
  RobertaProcessing: framed,
  Sequence: (fields) =>
    fields.fieldsList('processors').reduce((inner, processor) => {
      const outer = rule(processor)
      return { before: [...outer.before, ...inner.before], behind: [...inner.behind, ...outer.behind] }
    }, nothing),
}

export function postProcessorFromJson(json: unknown): PostProcessor {
  return json === null || json === undefined ? nothing : rule(new JsonFields(json, 'post_processor'))
}

function rule(fields: JsonFields): PostProcessor {
  const name = fields.string('type')
  const found = rules[name]
  if (found === undefined) throw unknownComponent('post-processor', name, fields.where)
  return found(fields)
}

function template(fields: JsonFields): PostProcessor {
  const before: number[] = []
  const behind: number[] = []
  let passedText = false
  for (const part of fields.fieldsList('single')) {
    if (part.raw('Sequence') !== undefined) passedText = true
    else {
      const name = part.fields('SpecialToken').string('id')
      const ids = fields.fields('special_tokens').fields(name).counts('ids')
      ;(passedText ? behind : before).push(...ids)
    }
  }
  return { before, behind }
}

/** BERT and RoBERTa write ["text", id] pairs for the tokens around the text. */
function framed(fields: JsonFields): PostProcessor {
  const id = (name: string) => {
    const value = fields.list(name)[1]
    if (typeof value !== 'number') throw new UserError(`${fields.where}.${name} is not a [text, id] pair`)
    return value
  }
  return { before: [id('cls')], behind: [id('sep')] }
}
