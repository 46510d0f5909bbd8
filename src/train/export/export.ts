/**
 * Writes a model or an adapter in a form that others load, opens it again, and lets it read a text beside its
 * source. What differs beyond its bound is removed: an export is there and right, or not there.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import { isRunning } from '../../base/processes.ts'
import { openGguf } from '../../formats/gguf.ts'
import type { GgufEntry } from '../../formats/gguf-values.ts'
import type { Device } from '../../runtime/device.ts'
import {
  type ChatTemplate,
  chatTemplateFromFolder,
  chatTemplateFromGguf,
} from '../../tokenizer/chat-template.ts'
import { loadTokenizer, type Tokenizer, tokenizerFromGguf } from '../../tokenizer/tokenizer.ts'
import { damagedWeightsIn } from '../checkpoint.ts'
import {
  type Bound,
  type Comparison,
  compare,
  holdTo,
  otherChoices,
  readWithModel,
  readWithSource,
} from './compare.ts'
import { textFolder, writeAdapterFolder, writeModelFolder } from './folder.ts'
import { type GgufTypes, writeGgufFile } from './gguf.ts'
import { ggufTokenizer } from './gguf-tokenizer.ts'
import { passage } from './passage.ts'
import { type ExportSource, openExportSource } from './source.ts'

export const exportForms = ['safetensors', 'merged', 'peft', 'gguf'] as const
export type ExportForm = (typeof exportForms)[number]

/** Types by form; the first is the default. */
export const exportTypes = {
  safetensors: ['f32', 'bf16', 'f16'],
  merged: ['f32', 'bf16', 'f16'],
  peft: ['f32'],
  gguf: ['f16', 'f32', 'bf16', 'q8_0', 'q4_k'],
} as const satisfies Record<ExportForm, readonly ExportType[]>

/**
 * How far an export may be from its source. Floats by their rounding; a small model's logits suffer more from
 * 4-bit weights than a large one's, so that bound catches what is broken, not what is coarse.
 */
export const exportBounds = {
  f32: { logits: 1e-4, perplexity: 1e-4 },
  f16: { logits: 0.01, perplexity: 0.002 },
  bf16: { logits: 0.05, perplexity: 0.01 },
  q8_0: { logits: 0.1, perplexity: 0.02 },
  q4_k: { logits: 0.5, perplexity: 0.15 },
} as const satisfies Record<string, Bound>
export type ExportType = keyof typeof exportBounds

/** Tokens that both sides read. */
const comparedTokensMax = 256

export interface ExportReport extends Comparison {
  path: string
  form: ExportForm
  type: ExportType
  bytes: number
  /** Whether chat templates were there to compare. */
  template: boolean
  /** Of a GGUF file: not every tensor is of `type`. */
  types?: GgufTypes
}

export interface ExportRequest {
  /** Folder of a model or adapter, or a GGUF file. */
  from: string
  to: string
  form: ExportForm
  type?: ExportType | undefined
  /** What both sides read; a passage of Moby-Dick by default. */
  text?: string | undefined
}

export function exportModel(request: ExportRequest, device: Device): ExportReport {
  const { from, to, form } = request
  const type = request.type ?? exportTypes[form][0]
  checkRequest(request, type)
  refuseDamaged(from)
  using source = openExportSource(from)
  checkForm(source, form)
  mkdirSync(dirname(to), { recursive: true })
  clearInterrupted(dirname(to))
  const hidden = join(dirname(to), `.${basename(to)}.${process.pid}.exporting`)
  mkdirSync(hidden)
  const temporary = join(hidden, basename(to))
  try {
    const texts = textSide(source)
    const types = write(temporary, source, request, type, texts)
    const written = textSideOf(temporary, form)
    sameText(texts, written)
    const tokens = tokensToRead(source, texts.tokenizer, request.text ?? passage)
    const comparison = readBack(temporary, source, form, type, tokens, device)
    holdTo(exportBounds[type], comparison, `${form} ${type}`)
    renameSync(temporary, to)
    const bytes = form === 'gguf' ? statSync(to).size : statSync(join(to, weightsOf(form))).size
    const template = texts.template !== undefined
    return { ...comparison, path: to, form, type, bytes, template, ...(types && { types }) }
  } finally {
    rmSync(hidden, { recursive: true, force: true })
  }
}

/** What exports of any name left in this folder when their process was killed; others may be under way. */
function clearInterrupted(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = /^\..*\.(\d+)\.exporting$/.exec(name)?.[1]
    if (pid !== undefined && (Number(pid) === process.pid || !isRunning(Number(pid))))
      rmSync(join(folder, name), { recursive: true, force: true })
  }
}

function checkRequest({ form, to }: ExportRequest, type: ExportType): void {
  if (!(exportTypes[form] as readonly ExportType[]).includes(type)) {
    throw new UserError(`${form} does not come in ${type}.`, {
      failure: 'usage',
      fix: `Types of ${form}: ${exportTypes[form].join(', ')}.`,
    })
  }
  if (form === 'gguf' && !to.endsWith('.gguf'))
    throw new UserError(`${to} must end in .gguf.`, { failure: 'usage' })
  if (existsSync(to)) {
    throw new UserError(`${to} is there already.`, {
      failure: 'conflict',
      fix: 'Choose another place, or remove it.',
    })
  }
}

/** A file whose bits changed on the disk would be compared with itself, and found right. */
function refuseDamaged(from: string): void {
  const reason = damagedWeightsIn(from)
  if (reason === undefined) return
  throw new UserError(`${from} is damaged: ${reason}.`, {
    failure: 'conflict',
    fix: 'Export an earlier checkpoint of the run; training on takes the newest whole one by itself.',
  })
}

function checkForm(source: ExportSource, form: ExportForm): void {
  const { path, adapter } = source
  if (form !== 'gguf' && textFolder(source).endsWith('.gguf'))
    throw new UserError(`${path} has its tokenizer as GGUF writes it: it goes into a GGUF file only.`, {
      failure: 'usage',
      fix: 'Export it --as gguf, or export the folder that the file was made of.',
    })
  if (form === 'peft' && adapter === undefined)
    throw new UserError(`${path} holds a whole model, no adapter.`, {
      failure: 'usage',
      fix: 'Export it --as safetensors.',
    })
  if (form === 'safetensors' && adapter !== undefined) {
    throw new UserError(`${path} holds an adapter.`, {
      failure: 'usage',
      fix: 'Export it --as peft, or with its base --as merged.',
    })
  }
}

const weightsOf = (form: ExportForm) => (form === 'peft' ? 'adapter_model.safetensors' : 'model.safetensors')

interface TextSide {
  tokenizer: Tokenizer
  template: ChatTemplate | undefined
}

function textSide(source: ExportSource): TextSide {
  const folder = textFolder(source)
  return folder.endsWith('.gguf') ? textSideOf(folder, 'gguf') : textSideOf(folder, 'safetensors')
}

function textSideOf(path: string, form: ExportForm): TextSide {
  if (form !== 'gguf') return { tokenizer: loadTokenizer(path), template: chatTemplateFromFolder(path) }
  using file = openGguf(path)
  return { tokenizer: tokenizerFromGguf(file.metadata), template: chatTemplateFromGguf(file.metadata) }
}

function write(
  to: string,
  source: ExportSource,
  request: ExportRequest,
  type: ExportType,
  texts: TextSide,
): GgufTypes | undefined {
  const { form, from } = request
  if (form === 'peft') {
    writeAdapterFolder(to, source)
    return undefined
  }
  if (form !== 'gguf') {
    assert(type === 'f32' || type === 'f16' || type === 'bf16', 'a folder holds floats')
    writeModelFolder(to, source, ({ f32: 'F32', f16: 'F16', bf16: 'BF16' } as const)[type])
    return undefined
  }
  const ggufType = ({ f32: 'F32', f16: 'F16', bf16: 'BF16', q8_0: 'Q8_0', q4_k: 'Q4_K' } as const)[type]
  const { vocabularySize } = source.model.definition.config
  const folder = textFolder(source)
  const metadata = folder.endsWith('.gguf')
    ? tokenizerEntries(folder)
    : ggufTokenizer(folder, texts.tokenizer, vocabularySize, texts.template?.sources)
  return writeGgufFile(to, source, ggufType, basename(from), metadata)
}

function tokenizerEntries(path: string): Map<string, GgufEntry> {
  using file = openGguf(path)
  return new Map([...file.entries].filter(([name]) => name.startsWith('tokenizer.')))
}

const probes = ['Hello, world! 안녕하세요 — 12,345 tokens?\n\n\tIndented', passage.slice(0, 300)]
const conversation = [
  { role: 'user', content: 'What does a ropeway do?' },
  { role: 'assistant', content: 'It never stops.' },
  { role: 'user', content: 'Why?' },
]

/** Texts have the same tokens, and a conversation renders to the same text. */
function sameText(before: TextSide, after: TextSide): void {
  for (const probe of probes) {
    const [own, written] = [before, after].map(({ tokenizer }) => [...tokenizer.encode(probe)].join())
    if (own !== written)
      throw new UserError(
        'The tokenizer of the export cuts text otherwise than its source. It was removed.',
        {
          fix: 'Export as safetensors, which keeps the tokenizer as it is.',
        },
      )
  }
  const [own, written] = [before, after].map(({ template }) =>
    template?.render({ messages: conversation, addGenerationPrompt: true }),
  )
  if (own !== written)
    throw new UserError('The chat template of the export renders otherwise than its source. It was removed.')
}

function tokensToRead(source: ExportSource, tokenizer: Tokenizer, text: string): Int32Array {
  const { contextMax } = source.model.definition.config
  const tokens = Int32Array.from(tokenizer.encode(text)).slice(0, Math.min(comparedTokensMax, contextMax))
  if (tokens.length < 2)
    throw new UserError('The text to compare on has fewer than two tokens.', { failure: 'usage' })
  return tokens
}

/** An adapter is compared by putting what was written beside its base again. */
function readBack(
  path: string,
  source: ExportSource,
  form: ExportForm,
  type: ExportType,
  tokens: Int32Array,
  device: Device,
): Comparison {
  const before = readWithSource(source, tokens, device)
  // Rounding turns a near tie of a router, and that token's logits are then another expert's.
  const mixed = source.model.definition.config.mixture !== undefined && type !== 'f32'
  const leftOut = mixed ? Math.floor(tokens.length * otherChoices) : 0
  if (form !== 'peft') return compare(before, readWithModel(path, tokens, device), tokens.length, leftOut)
  using written = openExportSource(source.path, path)
  return compare(before, readWithSource(written, tokens, device), tokens.length, leftOut)
}
