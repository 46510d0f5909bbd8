/** What the documents tell people to type and to write into files, taken out of their text. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..', '..')

/** The documents that tell how things are used; decisions.md tells what was. */
export const documents = [
  'README.md',
  ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`),
  ...readdirSync(join(root, 'examples')).map((name) => `examples/${name}/README.md`),
].filter((path) => path.endsWith('.md') && path !== 'docs/decisions.md' && existsSync(join(root, path)))

export interface DocumentedCommand {
  /** File and line, for the reader of a failure. */
  place: string
  words: string[]
  /** Options that the comment behind the command names. */
  alsoOptions: string[]
  /** A command in running text may leave out what a block may not. */
  inText: boolean
}

/** Every `ropeway ...` in blocks of code and between backquotes, alternatives (`stop|resume`) as commands of their own. */
export function documentedCommands(): DocumentedCommand[] {
  return documents.flatMap((path) => {
    const text = readFileSync(join(root, path), 'utf8')
    const found: DocumentedCommand[] = []
    const take = (offset: number, line: string, inText: boolean) => {
      const place = `${path}:${text.slice(0, offset).split('\n').length}`
      const { commands, comment } = shellCommands(line)
      for (const words of commands.flatMap(alternatives)) {
        const start = words.indexOf('ropeway')
        const prefixed = words.slice(0, Math.max(start, 0)).every((word) => beforeRopeway.test(word))
        if (start < 0 || !prefixed || words.length === start + 1) continue
        const alsoOptions = comment.match(/(?<![\w-])--[a-z][a-z-]*/g) ?? []
        found.push({ place, words: words.slice(start + 1), alsoOptions, inText })
      }
    }
    for (const { code, offset } of blocks(text, /^(?:sh\b.*|text|)$/)) {
      let at = offset
      for (const line of code.split('\n')) {
        take(at, line, false)
        at += line.length + 1
      }
    }
    for (const match of withoutBlocks(text).matchAll(/`([^`]*\bropeway\b[^`]*)`/g))
      take(match.index, match[1]!.replaceAll('\n', ' '), true)
    return found
  })
}

/** `npx ropeway`, `mpirun -n 4 ropeway`, `INNER=... npx ropeway`, `eval "$(ropeway ...)"`, the prompt of a terminal. */
const beforeRopeway = /^(?:npx|mpirun|-n|\d+|\$|[A-Z]+=.*)$/

export interface Block {
  place: string
  code: string
}

/** The blocks of one language, in all documents. */
export function documentedBlocks(language: string): Block[] {
  return documents.flatMap((path) => {
    const text = readFileSync(join(root, path), 'utf8')
    return blocks(text, new RegExp(`^${language}$`)).map(({ code, offset }) => ({
      place: `${path}:${text.slice(0, offset).split('\n').length}`,
      code,
    }))
  })
}

function blocks(text: string, language: RegExp): { code: string; offset: number }[] {
  return [...text.matchAll(fenced)]
    .filter(([, , name]) => language.test(name!))
    .map((match) => ({ code: match[3]!, offset: match.index + match[0].indexOf('\n') + 1 }))
}

/** In the items of a list blocks are indented. */
const fenced = /^( *)```(.*)\n([\s\S]*?)^\1```$/gm

/** The same length, so that places stay. */
function withoutBlocks(text: string): string {
  return text.replace(fenced, (block) => block.replace(/[^\n]/g, ' '))
}

/** The words of each command of one line, as a shell parts them; redirections are left out. */
function shellCommands(line: string): { commands: string[][]; comment: string } {
  const inner = /"\$\((.*)\)"/.exec(line)?.[1] ?? line
  const tokens = inner.match(/(?:"[^"]*"|'[^']*'|[^\s"'])+/g) ?? []
  const commentAt = tokens.findIndex((token) => token.startsWith('#'))
  const code = commentAt < 0 ? tokens : tokens.slice(0, commentAt)
  const commands: string[][] = [[]]
  let isFile = false
  for (const token of code) {
    if (/^(?:<<<|<|>)$/.test(token)) isFile = true
    else if (isFile) isFile = false
    else if (/^(?:&&|\||;)$/.test(token)) commands.push([])
    else commands.at(-1)!.push(token.replaceAll(/["']|;$/g, ''))
    if (token.endsWith(';')) commands.push([])
  }
  return { commands, comment: tokens.slice(code.length).join(' ') }
}

/** `job stop|resume NAME` is two commands; `[PATH...]` may be left out. */
function alternatives(words: string[]): string[][] {
  return words
    .filter((word) => !word.startsWith('['))
    .reduce<string[][]>(
      (before, word) =>
        (/^[a-z]+(?:\|[a-z]+)+$/.test(word) ? word.split('|') : [word]).flatMap((one) =>
          before.map((line) => [...line, one]),
        ),
      [[]],
    )
}
