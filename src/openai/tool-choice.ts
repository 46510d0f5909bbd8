/**
 * What an answer is held to where tools may or must be called: the text that the model's family writes calls in, around
 * arguments that fit what the function takes. Nothing is held where the model is free: tool_choice auto, no strict
 * function, any number of calls.
 */
import type { ChatRequest } from '../api/chat.ts'
import type { Constraint } from '../constrain/constraint.ts'
import type { Pattern } from '../constrain/pattern.ts'
import { Problem } from '../http/problem.ts'
import type { ChatTemplate } from '../tokenizer/chat-template.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ConstraintChecks } from './constraint-checks.ts'
import { harmonyMarks } from './harmony.ts'
import { checkEnding, heldFormat } from './response-format.ts'
import { argumentsMark, type CallForm, callFormsOf, listMark, pythonMark, tag } from './tool-calls.ts'

const { channel, constrain, end, message, start } = harmonyMarks

type Tool = NonNullable<ChatRequest['tools']>[number]
type Schema = Readonly<Record<string, unknown>>

/** A function as it is called: its name and the JSON of its arguments. */
interface Callable {
  name: string
  given: Pattern
}

/** Whether the answer may call anything. */
export function mayCall({ tools, tool_choice }: ChatRequest): boolean {
  return tools !== undefined && tools.length > 0 && tool_choice !== 'none'
}

/** The function that the answer has to call, if one is named. */
export function namedFunction({ tool_choice }: ChatRequest): string | undefined {
  return typeof tool_choice === 'object' ? tool_choice.function.name : undefined
}

/** Rejects with the {@link Problem} that names what cannot be kept. */
export async function callConstraint(
  body: ChatRequest,
  template: ChatTemplate,
  tokenizer: Tokenizer,
  checks: ConstraintChecks,
): Promise<Constraint | undefined> {
  if (!mayCall(body)) return undefined
  const named = namedFunction(body)
  const mustCall = body.tool_choice === 'required' || named !== undefined
  const single = body.parallel_tool_calls === false
  const format = heldFormat(body)
  const forms = callFormsOf(template)
  // There a call ends the answer.
  const isHeld =
    mustCall || (single && !forms.includes('channels')) || format !== undefined || body.tools!.some(isStrict)
  if (!isHeld) return undefined
  checkEnding(body, 'tools', 'the end of a call could not be told')
  const callables: Callable[] = []
  // One at a time: a request of many functions takes no more of the queue than another.
  for (const [i, tool] of body.tools!.entries()) {
    const { name } = tool.function
    if (named !== undefined && name !== named) continue
    const given = await argumentsOf(tool, mustCall, `tools.${i}.function.parameters`, checks)
    callables.push({ name, given })
  }
  const marked = markedBy(tokenizer)
  const isNamedList = Object.values(template.sources).some((source) => source.includes(argumentsMark))
  const writings = forms.map((form): Writing => {
    if (form === 'tagged') return tagged(callables, single, marked)
    if (form === 'bare') return bare(callables, single, marked)
    if (form === 'channels') return { calls: inChannels(callables, marked), opening: undefined }
    return isNamedList ? listedByName(callables, single, marked) : listed(callables, single, marked)
  })
  const pattern = forms.includes('channels')
    ? heldInChannels(writings[0]!.calls, mustCall, format, marked)
    : held(writings, forms, mustCall, format)
  const constraint: Constraint = { kind: 'text', pattern }
  const verdict = await checks.check(constraint)
  if (verdict.ok) return constraint
  throw refused('tools', `The functions together: ${verdict.message}`)
}

/** A mark as the tokenizer writes it: a token of its own, or its spelling. */
function markedBy(tokenizer: Tokenizer): Marked {
  return (mark) => (tokenizer.idOf(mark) === undefined ? { literal: mark } : { special: mark })
}

function isStrict(tool: Tool): boolean {
  return tool.function.strict === true
}

/** What a strict function takes is kept to the letter or refused; what another one takes as far as it can be. */
async function argumentsOf(
  tool: Tool,
  mustCall: boolean,
  param: string,
  checks: ConstraintChecks,
): Promise<Pattern> {
  const { parameters } = tool.function
  // As OpenAI reads it: a function of no parameters.
  if (parameters === undefined) return { json: { type: 'object', properties: {} } }
  if (isStrict(tool)) {
    if (parameters.type !== 'object') throw refused(param, "A strict function's schema has the type object.")
    const verdict = await checks.check({ kind: 'json', schema: parameters })
    if (verdict.ok) return { json: parameters }
    throw refused(param, `${verdict.path.slice(0, 500) || 'The schema'}: ${verdict.message}`)
  }
  const schema = mustCall ? asObject(parameters) : undefined
  const loosely: Constraint = { kind: 'text', pattern: { json: schema, loose: true } }
  if (schema !== undefined && (await checks.check({ kind: 'json', schema })).ok) return { json: schema }
  if (schema !== undefined && (await checks.check(loosely)).ok) return { json: schema, loose: true }
  return { json: { type: 'object' } }
}

/** The schema, where it is one of objects and of nothing else. */
function asObject(schema: Schema): Schema | undefined {
  if (schema.type === 'object') return schema
  const others = ['type', '$ref', 'anyOf', 'oneOf', 'allOf', 'enum', 'const']
  return others.some((keyword) => schema[keyword] !== undefined) ? undefined : { ...schema, type: 'object' }
}

/** How one form writes the calls of an answer. */
interface Writing {
  calls: Pattern
  /** What opens a call wherever it stands; undefined when a call is the whole answer. */
  opening: string | undefined
}

/** Calls alone, calls or JSON, or free text that calls may end. */
function held(
  writings: readonly Writing[],
  forms: readonly CallForm[],
  mustCall: boolean,
  format: Pattern | undefined,
): Pattern {
  const calls = writings.map((writing) => writing.calls)
  if (mustCall) return { either: calls }
  if (format !== undefined) return { either: [format, ...calls] }
  const without = writings.flatMap(({ opening }) => opening ?? [])
  const free: Pattern = { free: { without, notFirst: forms.includes('bare') ? ['{', pythonMark] : [] } }
  const endings = writings.map((writing): Pattern => {
    return writing.opening === undefined ? writing.calls : { sequence: [free, writing.calls] }
  })
  return { either: [free, ...endings] }
}

type Marked = (mark: string) => Pattern

const maybeSpace: Pattern = { either: [{ literal: '' }, { literal: ' ' }] }
const maybeWhite: Pattern = { either: [{ literal: '' }, { literal: ' ' }, { literal: '\n' }] }

function tagged(callables: readonly Callable[], single: boolean, marked: Marked): Writing {
  const call: Pattern = {
    sequence: [
      ...[maybeWhite, marked(tag.open), maybeWhite],
      callObject(callables, 'arguments'),
      ...[maybeWhite, marked(tag.close)],
    ],
  }
  const calls: Pattern = single ? call : { sequence: [{ repeated: call }, maybeWhite] }
  return { calls, opening: tag.open }
}

function listed(callables: readonly Callable[], single: boolean, marked: Marked): Writing {
  const call = callObject(callables, 'arguments')
  const more: Pattern = { repeated: { sequence: [{ literal: ',' }, maybeSpace, call] } }
  const rest: Pattern = single ? { literal: '' } : { either: [{ literal: '' }, more] }
  const open = [maybeSpace, marked(listMark), maybeSpace, { literal: '[' }]
  return { calls: { sequence: [...open, call, rest, { literal: ']' }] }, opening: listMark }
}

function listedByName(callables: readonly Callable[], single: boolean, marked: Marked): Writing {
  const named = callables.map(({ name, given }): Pattern => {
    return { sequence: [{ literal: name }, marked(argumentsMark), maybeSpace, given] }
  })
  const call: Pattern = { sequence: [marked(listMark), { either: named }] }
  return { calls: { sequence: [maybeSpace, single ? call : { repeated: call }] }, opening: listMark }
}

function bare(callables: readonly Callable[], single: boolean, marked: Marked): Writing {
  const call = callObject(callables, 'parameters')
  const more: Pattern = { repeated: { sequence: [{ literal: ';' }, maybeSpace, call] } }
  const rest: Pattern = single ? { literal: '' } : { either: [{ literal: '' }, more] }
  const open: Pattern = { either: [{ literal: '' }, marked(pythonMark)] }
  return { calls: { sequence: [maybeWhite, open, call, rest] }, opening: undefined }
}

/** Of gpt-oss: a message to the function. */
function inChannels(callables: readonly Callable[], marked: Marked): Pattern {
  const calls = callables.map(({ name, given }): Pattern => {
    const header = [{ literal: `commentary to=functions.${name} ` }, marked(constrain), { literal: 'json' }]
    return { sequence: [marked(channel), ...header, marked(message), given] }
  })
  return { either: calls }
}

/** Thinking, or none, and then a call, or an answer. */
function heldInChannels(
  calls: Pattern | undefined,
  mustCall: boolean,
  format: Pattern | undefined,
  marked: Marked,
): Pattern {
  const anything: Pattern = { free: { without: Object.values(harmonyMarks), notFirst: [] } }
  const onChannel = (name: string, body: Pattern): Pattern => {
    return { sequence: [marked(channel), { literal: name }, marked(message), body] }
  }
  const next = [marked(end), marked(start), { literal: 'assistant' }]
  const thought: Pattern = { sequence: [onChannel('analysis', anything), ...next] }
  const answers = [...(mustCall ? [] : [onChannel('final', format ?? anything)]), ...(calls ? [calls] : [])]
  return { sequence: [{ either: [{ literal: '' }, thought] }, { either: answers }] }
}

/** Where nothing is called: thinking, or none, and an answer that is held. */
export function formatInChannels(format: Pattern, tokenizer: Tokenizer): Pattern {
  const marked = markedBy(tokenizer)
  return heldInChannels(undefined, false, format, marked)
}

function callObject(callables: readonly Callable[], field: 'arguments' | 'parameters'): Pattern {
  const functions = callables.map(({ name, given }): Pattern => {
    const behindName = [{ literal: `"${name}",` }, maybeSpace, { literal: `"${field}":` }, maybeSpace]
    return { sequence: [...behindName, given] }
  })
  return { sequence: [{ literal: '{"name":' }, maybeSpace, { either: functions }, { literal: '}' }] }
}

function refused(param: string, message: string): Problem {
  return new Problem(400, 'invalid_function_parameters', `${param}: ${message}`, { param })
}
