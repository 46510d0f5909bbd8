/**
 * The bars of the issues about speed beside the newest record of each: `npm run bench:bars` writes
 * bench/results/bars.md from bench/results/*.jsonl, so that nobody has to look a figure up, or can quote an old one.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { pathToFileURL } from 'node:url'
import { assert } from '../src/base/assert.ts'
import type { BenchRecord } from './harness/bench.ts'

/** What a record says about a bar: the name of the figure and its ratio. */
type Reading = readonly [name: string, value: number]

interface Bar {
  readonly what: string
  /** Without its ending, in bench/results. */
  readonly file: string
  readonly read: (record: BenchRecord) => readonly Reading[]
  readonly bar: number
  readonly is: 'at least' | 'at most'
  /** What keeps it from being met on AMX, and which entry of docs/decisions.md has the profile. */
  readonly held?: { readonly by: string; readonly entry: string }
  /** The second side of what was read, where a figure means little without it. */
  readonly beside?: { readonly figure: RegExp; readonly unit: string }
}

interface Found {
  readonly set: string
  readonly worst: Reading
  readonly best: Reading
  readonly met: number
  readonly of: number
  readonly record: BenchRecord
  /** The least and the most of what was read. */
  readonly second: readonly [number, number] | undefined
}

const resultsFolder = join(import.meta.dirname, 'results')
const pageFile = join(resultsFolder, 'bars.md')

/** Medians of the comparisons whose figure and second side match. */
function ratios(figure: RegExp, against: RegExp) {
  return (record: BenchRecord): Reading[] =>
    record.comparisons
      .filter((comparison) => figure.test(comparison.figure) && against.test(comparison.sides[1]))
      .map((comparison) => [comparison.figure, comparison.ratio.median])
}

/** As `ratios`, of records with these parameters. */
function ratiosOf(parameters: Readonly<Record<string, unknown>>, figure: RegExp, against: RegExp) {
  const read = ratios(figure, against)
  return (record: BenchRecord): Reading[] => {
    const given: Readonly<Record<string, unknown>> = record.parameters
    return Object.entries(parameters).every(([name, value]) => given[name] === value) ? read(record) : []
  }
}

/** How far perplexity moved, in percent, whichever way. */
function moved(figure: RegExp) {
  return (record: BenchRecord): Reading[] =>
    Object.entries(record.figures)
      .filter(([name]) => figure.test(name))
      .map(([name, value]) => [name.replace(' movedPercent', ''), Math.abs(value)])
}

/** An iteration with several adapters over the same with one for all; older records compare both with none. */
function mixedOverOne(figure: RegExp) {
  return (record: BenchRecord): Reading[] => {
    const ones = new Map(
      record.comparisons
        .filter(({ sides }) => sides[0] === '1 adapters')
        .map((comparison) => [comparison.figure, comparison.ratio.median]),
    )
    return record.comparisons
      .filter((comparison) => figure.test(comparison.figure) && comparison.sides[0] !== '1 adapters')
      .flatMap(({ figure, sides, ratio }) => {
        const one = sides[1] === '1 adapters' ? 1 : ones.get(figure)
        return one === undefined ? [] : [[`${figure}, ${sides[0]}`, ratio.median / one] as const]
      })
  }
}

const training = /^tokensPerSecond$/
const granite = '2026-11-29 What a Granite Rapids showed of tiles'
const byAllRows = '2026-11-29 Rows behind the last one, and blocks by all rows'
const by256 = '2026-11-29 Blocks of 256 inputs, and codes handed over'
const oneRow = /^(q|bf16|f32)[^R]*GigabytesPerSecond/
/** Every bar of the issue about kernels; all are stated for a processor with AMX. */
export const bars: readonly Bar[] = [
  {
    what: "products of 128 to 512 rows against oneDNN's bf16",
    ...{ file: 'onednn', read: ratios(/^bf16Rows/, /oneDNN/), bar: 0.9, is: 'at least' },
    held: {
      by: "results are F32, twice the bytes of oneDNN's, and the loop alone writes them at 1.45 to 1.75 TFLOP/s where it does 2.3 with both sides in the second cache. One shape differs by a fifth from run to run of the same code.",
      entry: granite,
    },
  },
  {
    what: "products of 128 to 512 rows against oneDNN's int8",
    ...{ file: 'onednn', read: ratios(/^int8Rows/, /oneDNN/), bar: 0.75, is: 'at least' },
    held: {
      by: 'lines from the second cache do not come beside tile products (1.3 cycles each), sums leave their tiles for every 256 inputs, to be scaled, and results are F32. oneDNN scales a whole product once, and its results take half the bytes. 10 of 12 in one record of the day and 8 in another, an hour later, when the machine was quicker, oneDNN more than ours; 512 rows by 896 x 4,864, whose results are 10 MB, are the worst in both.',
      entry: by256,
    },
  },
  {
    what: 'one row against a plain read of the weights',
    ...{ file: 'kernels', read: ratios(oneRow, /plain read/), bar: 0.8, is: 'at least' },
    beside: { figure: oneRow, unit: 'GB/s' },
  },
  {
    what: 'decode attention against a plain read of the cache',
    ...{ file: 'kernels', read: ratios(/^decode(Bf16)?Heads/, /plain read/), bar: 0.7, is: 'at least' },
    beside: { figure: /^decode(Bf16)?Heads/, unit: 'GB/s' },
    held: {
      by: 'seven heads of queries a position are by count 2,650 cycles for 16 KB, two thirds of what reading them takes, and the two overlap in part: the same code gave 20.8 GB/s in the morning (0.72) and 19.4 when the cores were slower, beside a read of 29 both times.',
      entry: by256,
    },
  },
  {
    what: '0.5B model, prompt of 512, against plain ggml',
    ...{ file: 'iterations', read: ratios(/^prompt512/, /ggml/), bar: 4, is: 'at least' },
  },
  {
    what: '0.5B model, 32 sequences, against plain ggml',
    ...{ file: 'iterations', read: ratios(/^decode32/, /ggml/), bar: 4, is: 'at least' },
    held: {
      by: '3.97 to 4.24x in five records of one day, at 33 to 36 ms of which a plain read of the weights is 17 to 18.',
      entry: byAllRows,
    },
  },
  {
    what: '0.5B model, batch 1, against plain ggml',
    ...{ file: 'iterations', read: ratios(/^decode1Tokens/, /ggml/), bar: 1.6, is: 'at least' },
    held: {
      by: 'a token takes 1.05 to 1.09 times as long as a plain read of the weights, and ggml reads at 0.6 of it: 1.58 to 2.03x in five records of one day.',
      entry: byAllRows,
    },
  },
  {
    what: 'the whole service, 48 mixed requests, against node-llama-cpp',
    ...{ file: 'serve-vs-node-llama-cpp', read: ratios(/^mixedOutputTokensPerSecond/, /./) },
    ...{ bar: 8, is: 'at least' },
    held: {
      by: 'prompts are half of its time (products 73 % of a prompt, attention 13 %), 16 that decode another third, at 30 ms of which reading is 20; 6.8 and 7.0x in two pairs.',
      entry: by256,
    },
  },
  {
    what: 'mixed adapters of rank 8 and 16 against one for all',
    ...{ file: 'adapters', read: mixedOverOne(/Rank(8|16)Iteration/), bar: 1.15, is: 'at most' },
    held: {
      by: '8 in 8 sequences at rank 16 (1.156; the base is quicker by tiles, what adapters add is not), and 32 in 32: they read 150 or 300 MB as codes, 5 and 10 of the 5.4 ms that they may add to 36, and each row of factors is multiplied by vectors.',
      entry: byAllRows,
    },
  },
  {
    what: 'mixed adapters of rank 64 against one for all',
    ...{ file: 'adapters', read: mixedOverOne(/Rank64Iteration/), bar: 1.15, is: 'at most' },
    held: {
      by: 'what is read: 32 are 1.1 GB as codes beside 510 MiB of weights, 8 are 280 MB.',
      entry: granite,
    },
  },
  {
    what: 'on AVX2 alone, products against ggml',
    ...{ file: 'avx2', read: ratios(/Rows\d+Gigaflops/, /^ggml/), bar: 1, is: 'at least' },
  },
  {
    what: 'on AVX2 alone, attention against ggml',
    ...{ file: 'avx2', read: ratios(/Heads/, /ggml/), bar: 1, is: 'at least' },
  },
  {
    what: 'training, GPT-2 shape in bf16, against PyTorch',
    ...{
      file: 'train-vs-pytorch',
      read: ratiosOf({ shape: 'gpt2', precision: 'bf16' }, training, /pytorch/),
    },
    ...{ bar: 2, is: 'at least' },
  },
  {
    what: 'training, Shakespeare shape in F32, against PyTorch',
    ...{ file: 'train-vs-pytorch' },
    read: ratiosOf({ shape: 'shakespeare', precision: 'f32' }, training, /pytorch/),
    ...{ bar: 1.5, is: 'at least' },
    held: {
      by: 'F32 has no tiles. Products take 15 of 20 ms, twice what registers allow, in pieces of 768 rows by 128 to 512; PyTorch does 30,000 tokens a second on this machine (13,600 on the one before).',
      entry: granite,
    },
  },
  {
    what: 'perplexity moved by bf16, percent',
    ...{ file: 'perplexity', read: moved(/weights BF16 cache .*movedPercent/), bar: 0.1, is: 'at most' },
  },
  {
    what: 'perplexity moved by int8, percent',
    ...{ file: 'perplexity', read: moved(/weights Q8_0 cache .*movedPercent/), bar: 0.5, is: 'at most' },
  },
]

/** Of processors whose figures say nothing about one another's, in the order of the page. */
const kinds = ['AMX', 'AVX-512', 'less'] as const

/** The widest instruction set of a record's machine, which decides its figures, and which of the kinds that is. */
function setOf({ setting }: BenchRecord): { kind: (typeof kinds)[number]; set: string } {
  const sets = setting.machine.instructionSets
  if (sets.some((name) => name.startsWith('amx'))) return { kind: 'AMX', set: 'AMX' }
  const wide = sets.findLast((name) => name.startsWith('avx512'))
  if (wide !== undefined) return { kind: 'AVX-512', set: wide }
  return { kind: 'less', set: sets.includes('avx2') ? 'avx2' : 'none' }
}

/** A bar beside the newest records that say anything about it, one of each kind of processor that has any. */
export function readings({ what, file, read, bar, is, beside }: Bar) {
  const lines = readFileSync(join(resultsFolder, `${file}.jsonl`), 'utf8')
    .trim()
    .split('\n')
  const found = new Map<(typeof kinds)[number], Found>()
  for (const line of lines.reverse()) {
    const record: BenchRecord = JSON.parse(line)
    const values = [...read(record)].sort((a, b) => (is === 'at least' ? a[1] - b[1] : b[1] - a[1]))
    const [worst] = values
    const { kind, set } = setOf(record)
    if (worst === undefined || found.has(kind)) continue
    const met = values.filter(([, value]) => (is === 'at least' ? value >= bar : value <= bar)).length
    const second = beside === undefined ? undefined : secondSides(record, beside.figure)
    found.set(kind, { set, worst, best: values.at(-1)!, met, of: values.length, record, second })
  }
  assert(found.size > 0, `no record in bench/results/${file}.jsonl says anything about: ${what}`)
  return kinds.flatMap((kind) => found.get(kind) ?? [])
}

/** From the least to the most that plain reads gave beside these figures. */
function secondSides({ comparisons }: BenchRecord, figure: RegExp): readonly [number, number] {
  const values = comparisons
    .filter((comparison) => figure.test(comparison.figure) && /plain read/.test(comparison.sides[1]))
    .flatMap((comparison) => comparison.values.map(([, second]) => second))
  return [Math.min(...values), Math.max(...values)]
}

function rows(bar: Bar): string[] {
  return readings(bar).map(({ set, worst, best, met, of, record, second }) => {
    const shown = (value: number) => Number(value.toPrecision(3)).toString()
    const beside =
      second === undefined ? '' : `, which gave ${second.map(shown).join(' to ')} ${bar.beside!.unit}`
    const range = of === 1 ? shown(worst[1]) : `${shown(worst[1])} to ${shown(best[1])}`
    const { date, commit } = record.setting
    const cells = [
      ...[`${bar.what}${beside}`, `${bar.is} ${bar.bar}`, set, range, `${met} of ${of}`],
      ...[of === 1 ? '' : worst[0], `${date.slice(0, 10)}, ${commit}`],
    ]
    return `| ${cells.join(' | ')} |`
  })
}

/** Of the bars that AMX does not meet whole, what keeps it. */
export function heldBars(): { bar: Bar; met: number; of: number }[] {
  return bars.flatMap((bar) => {
    const found = readings(bar).find(({ set }) => set === 'AMX')
    return found === undefined || found.met === found.of ? [] : [{ bar, met: found.met, of: found.of }]
  })
}

function reasons(): string[] {
  return heldBars().map(({ bar: { what, held }, met, of }) => {
    assert(held, `what keeps AMX from this bar is told: ${what}`)
    return `- **${what}** (${met} of ${of} met): ${held.by} [${held.entry.slice(11)}](../../docs/decisions.md#${anchorOf(held.entry)})`
  })
}

/** Where a page shows a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\w\s-]/g, '')
    .replaceAll(' ', '-')
}

/** The page; the same records give the same page. */
export function page(): string {
  return `# Bars and where they stand

Written by \`npm run bench:bars\` from the records beside this file; never by hand. The issue states every bar for a
processor with AMX: its newest record comes first where there is one, then that of a machine with AVX-512 alone, then that of
one with AVX2 alone. What keeps AMX from a bar stands below the table.

| what | bar | set | worst to best median | met | worst figure | measured |
|---|---|---|---|---|---|---|
${bars.flatMap(rows).join('\n')}

## What keeps AMX from those that it does not meet

By the newest records on AMX; what has been done since could not be measured there.

${reasons().join('\n')}
`
}

if (pathToFileURL(argv[1] ?? '').href === import.meta.url) writeFileSync(pageFile, page())
