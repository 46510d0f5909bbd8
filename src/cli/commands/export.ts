import { resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { readTextFile } from '../../base/files.ts'
import { Device } from '../../runtime/device.ts'
import {
  type ExportForm,
  type ExportReport,
  type ExportType,
  exportBounds,
  exportForms,
  exportModel,
} from '../../train/export/export.ts'
import { note } from '../terminal.ts'
import { resolveModel } from '../text-model.ts'

interface ExportFlags {
  to: string
  as: ExportForm
  type?: ExportType
  text?: string
  json?: boolean
}

export function exportCommand(program: Command): void {
  program
    .command('export')
    .description('write a model or an adapter for others, checked against its source')
    .argument('<model>', 'checkpoint, run folder, model folder, .gguf file, or the name of a model')
    .requiredOption('--to <path>', 'a new folder, or a file that ends in .gguf')
    .addOption(new Option('--as <form>', 'what to write').choices(exportForms).default('safetensors'))
    .addOption(new Option('--type <type>', 'number format').choices(Object.keys(exportBounds)))
    .option('--text <file>', 'compare on this text instead of a passage of Moby-Dick')
    .option('--json', 'print what was compared as one JSON object')
    .action((given: string, flags: ExportFlags) => {
      using device = new Device({ device: 'cpu' })
      const report = exportModel(
        {
          from: resolveModel(given),
          to: resolve(flags.to),
          form: flags.as,
          type: flags.type,
          text: flags.text === undefined ? undefined : readTextFile(flags.text),
        },
        device,
      )
      if (flags.json === true) process.stdout.write(`${JSON.stringify(report)}\n`)
      else note(describe(report))
    })
}

function describe(report: ExportReport): string {
  const megabytes = (report.bytes / 1e6).toFixed(1)
  const template = report.template ? ', chat template rendered equally' : ''
  const strange = report.isItsText
    ? ''
    : ' It reads this text worse than by guessing, so that only logits were held to their bound: give one that it knows by --text FILE.'
  return (
    `${report.path}: ${report.form} in ${report.type}${mixture(report)}, ${megabytes} MB. Opened again on ${report.tokens} tokens${others(report)}: ` +
    `largest logit difference ${report.largestLogitDifference.toPrecision(3)} (logits up to ${report.largestLogit.toPrecision(3)}), ` +
    `perplexity ${report.perplexityBefore.toFixed(3)} before, ${report.perplexityAfter.toFixed(3)} after${template}.${unfit(report)}${strange}`
  )
}

function others({ tokensLeftOut }: ExportReport): string {
  return tokensLeftOut === 0 ? '' : ` (without the ${tokensLeftOut} whose experts may be others)`
}

/** What the tensors of a GGUF file really are. */
function mixture({ types }: ExportReport): string {
  if (types === undefined) return ''
  const counts = Object.entries(types.tensors).map(([type, count]) => `${count} ${type}`)
  return ` (tensors: ${counts.join(', ')})`
}

function unfit({ types }: ExportReport): string {
  const reasons = new Map<string, string[]>()
  for (const { name, row, block, wanted, type } of types?.unfit ?? []) {
    const reason = `${type} instead of ${wanted}, as rows of ${row} numbers do not divide into blocks of ${block}`
    reasons.set(reason, [...(reasons.get(reason) ?? []), name])
  }
  const sentences = [...reasons].map(([reason, names]) => {
    const shown =
      names.length > 3 ? `${names.slice(0, 2).join(', ')} and ${names.length - 2} more` : names.join(', ')
    return ` ${shown}: ${reason}.`
  })
  return sentences.join('')
}
