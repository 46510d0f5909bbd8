/**
 * Filling in the middle (Bavarian et al. 2022, arXiv:2207.14255): a model that was trained for it is given what stands
 * before and behind a gap, between tokens of its own, and continues with what belongs into the gap.
 */

/** The tokens by which one tokenizer marks the parts. */
export interface FillIn {
  /** Stands before what precedes the gap. */
  readonly prefix: number
  /** Stands before what follows the gap. */
  readonly suffix: number
  /** Stands before the gap's own text; undefined where nothing does: then the prefix comes last. */
  readonly middle: number | undefined
  /** What ends the gap's text, where that is not the ending token of all texts. */
  readonly end?: number | undefined
  /** Its other tokens of that kind: where one of them comes, the gap's text is over. */
  readonly others: readonly number[]
}

interface Family {
  prefix: string
  suffix: string
  middle?: string
  end?: string
  others: readonly string[]
}

/** How families spell them. Those of one entry belong together. */
const families: readonly Family[] = [
  {
    // Qwen2.5-Coder, CodeGemma.
    ...{ prefix: '<|fim_prefix|>', suffix: '<|fim_suffix|>', middle: '<|fim_middle|>' },
    others: ['<|fim_pad|>', '<|repo_name|>', '<|file_sep|>', '<|file_separator|>'],
  },
  {
    // StarCoder, Granite.
    ...{ prefix: '<fim_prefix>', suffix: '<fim_suffix>', middle: '<fim_middle>' },
    others: ['<fim_pad>', '<reponame>', '<repo_name>', '<file_sep>', '<filename>'],
  },
  {
    // SantaCoder.
    ...{ prefix: '<fim-prefix>', suffix: '<fim-suffix>', middle: '<fim-middle>' },
    others: ['<fim-pad>'],
  },
  {
    // DeepSeek.
    ...{ prefix: '<｜fim▁begin｜>', suffix: '<｜fim▁hole｜>', middle: '<｜fim▁end｜>' },
    others: [],
  },
  // Code Llama.
  { prefix: '▁<PRE>', suffix: '▁<SUF>', middle: '▁<MID>', end: '▁<EOT>', others: [] },
  { prefix: '<PRE>', suffix: '<SUF>', middle: '<MID>', end: '<EOT>', others: [] },
  // Codestral has a token for the middle too, and does not use it.
  { prefix: '[PREFIX]', suffix: '[SUFFIX]', others: ['[MIDDLE]'] },
]

/** What a new tokenizer for a model that is to learn it has. */
export const fillInSpellings = ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'] as const

/** The tokens of the first family of which `idOf` knows all that are needed. */
export function fillInFrom(idOf: (spelling: string) => number | undefined): FillIn | undefined {
  for (const family of families) {
    const prefix = idOf(family.prefix)
    const suffix = idOf(family.suffix)
    const middle = family.middle === undefined ? undefined : idOf(family.middle)
    if (prefix === undefined || suffix === undefined) continue
    if (family.middle !== undefined && middle === undefined) continue
    const end = family.end === undefined ? undefined : idOf(family.end)
    const others = family.others.flatMap((spelling) => idOf(spelling) ?? [])
    return { prefix, suffix, middle, ...(end !== undefined && { end }), others }
  }
  return undefined
}

/** All tokens of that kind: they end the gap's text, and no text that people wrote is read as one. */
export function fillInTokens({ prefix, suffix, middle, end, others }: FillIn): ReadonlySet<number> {
  return new Set([prefix, suffix, middle, end, ...others].filter((token) => token !== undefined))
}

/** A prompt from the tokens of both sides of the gap, in the order that the family was trained with. */
export function fillInPrompt(
  { prefix, suffix, middle }: FillIn,
  before: readonly number[],
  behind: readonly number[],
): number[] {
  return middle === undefined
    ? [suffix, ...behind, prefix, ...before]
    : [prefix, ...before, suffix, ...behind, middle]
}
