/** The reference of the command line, made from its command tree. */
import type { Argument, Command, Option } from 'commander'
import { buildProgram } from '../src/cli/program.ts'

/** Said once, above all commands. */
const everywhere = new Set(['--context', '--project', '--json', '--quiet', '--help', '--version'])

const head = `# The command line

Made from the command tree (\`npm run generate\`); \`ropeway COMMAND --help\` says the same.

A noun without a verb lists, and is typed in the singular or the plural. Names may be typed as far as they are unmistakable.
What is printed on stdout is data, what is said on stderr is for people. Commands that talk to a service take:

| option | |
|---|---|
| \`--context <name>\` | the service to talk to (ropeway context) |
| \`--project <name>\` | the project, if not that of the context |
| \`--json\` | JSON on stdout, one object a line |
| \`-q, --quiet\` | ids alone on stdout |

Exit codes: 0 done, 1 failed (also a job that is attached to), 2 usage, 3 not found, 4 not allowed, 5 unreachable, 6 conflict,
7 waited too long, 130 interrupted.
`

export function commandLineReference(): string {
  const commands = shown(buildProgram())
  const contents = commands.map(
    (command) => `- [${command.name()}](#ropeway-${command.name()}): ${command.description()}`,
  )
  return `${[head, contents.join('\n'), ...commands.map((command) => section(command, 'ropeway', 2))].join('\n\n')}\n`
}

function shown({ commands }: Command): Command[] {
  return (commands as (Command & { _hidden?: boolean })[])
    .filter((command) => command._hidden !== true)
    .sort((a, b) => (a.name() < b.name() ? -1 : 1))
}

function section(command: Command, before: string, level: number): string {
  const path = `${before} ${command.name()}`
  const nested = shown(command)
  const usage = [path, ...command.registeredArguments.map(argumentText)].join(' ')
  const also = command.aliases().length === 0 ? '' : ` Also: ${command.aliases().join(', ')}.`
  const parts = [`${'#'.repeat(level)} ${path}`, sentence(command.description()) + also]
  if (nested.length === 0) parts.push(`\`\`\`text\n${usage}\n\`\`\``)
  const described = command.registeredArguments.filter(({ description }) => description !== '')
  const options = command.options.filter(({ long, hidden }) => !hidden && !everywhere.has(long ?? ''))
  const rows = [
    ...described.map((argument) => [argumentText(argument), argumentAbout(argument)]),
    ...options.map((option) => [option.flags, optionAbout(option)]),
  ]
  if (rows.length > 0)
    parts.push(
      ['| | |', '|---|---|', ...rows.map(([name, about]) => `| \`${name}\` | ${cell(about!)} |`)].join('\n'),
    )
  return [...parts, ...nested.map((inner) => section(inner, path, level + 1))].join('\n\n')
}

function argumentText(argument: Argument): string {
  const text = `${argument.name()}${argument.variadic ? '...' : ''}`
  return argument.required ? `<${text}>` : `[${text}]`
}

function argumentAbout({ description, defaultValue }: Argument): string {
  return defaultValue === undefined ? description : `${description} (default: ${String(defaultValue)})`
}

function optionAbout(option: Option): string {
  const notes = [
    ...(option.mandatory ? ['required'] : []),
    ...(option.argChoices === undefined ? [] : [option.argChoices.join(', ')]),
    ...(option.defaultValue === undefined || option.negate || option.defaultValue === ''
      ? []
      : [`default: ${option.defaultValueDescription ?? String(option.defaultValue)}`]),
    ...(option.envVar === undefined ? [] : [`or ${option.envVar}`]),
  ]
  return notes.length === 0 ? option.description : `${option.description} (${notes.join('; ')})`
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;').replaceAll('\n', ' ')
}
