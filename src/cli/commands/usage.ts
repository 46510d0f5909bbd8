import { type Command, Option } from 'commander'
import * as api from '../../api/control/usage.ts'
import { type NounFlags, onService, type Session } from '../noun.ts'
import { number, wholeNumber } from '../options.ts'
import { line } from '../output.ts'
import { note } from '../terminal.ts'

interface UsageFlags extends NounFlags {
  from?: string
  to?: string
  key?: string
  model?: string
  by: string
}

interface BudgetFlags extends NounFlags {
  key?: string
  per: 'day' | 'month'
  tokens?: number
  cost?: number
  deviceHours?: number
}

export function usageCommand(program: Command): void {
  const noun = program.command('usage').description('tokens, device-hours, what they cost, and budgets')
  onService(
    noun
      .command('view', { isDefault: true })
      .description('what the project has used')
      .option('--from <day>', 'since (UTC; default: the first of the month)')
      .option('--to <day>', 'until, inclusive (default: today)')
      .option('--key <id>', 'of one key')
      .option('--model <name>', 'of one deployment')
      .option('--by <what>', 'day, key, model, separated by commas', 'day,model'),
    runView,
  )
  onService(noun.command('budgets').description('list budgets'), runBudgets)
  onService(
    noun
      .command('set-budget')
      .description('bound what the project, or a key, may use; requests beyond it are refused')
      .option('--key <id>', 'a key instead of the whole project')
      .addOption(new Option('--per <period>', 'renewed each').choices(['day', 'month']).default('month'))
      .option('--tokens <n>', 'prompt and output together', wholeNumber(1))
      .option('--cost <amount>', 'at the prices set', number(0, 1e12))
      .option('--device-hours <n>', 'of jobs and replicas together', number(0, 1e9)),
    runSetBudget,
  )
  onService(
    noun.command('delete-budget').description('remove a budget').argument('<id>'),
    async ({ client, project }, _: NounFlags, budget: string) =>
      await client.call(api.removeBudget, { params: { project, budget } }),
  )
}

const amount = (value: number) => String(Number(value.toFixed(4)))

async function runView({ client, out, project }: Session, flags: UsageFlags): Promise<void> {
  const { from, to, key, model, by } = flags
  const query = {
    by,
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
    ...(key !== undefined && { key }),
    ...(model !== undefined && { model }),
  }
  printUsage({ out }, await client.call(api.showUsage, { params: { project }, query }))
}

export function printUsage({ out }: Pick<Session, 'out'>, used: api.UsageView): void {
  if (out.isJson) {
    line(JSON.stringify(used))
    return
  }
  out.list(
    used.tokens.map((row) => ({ id: '', ...row })),
    {
      DAY: ({ day }) => day ?? '',
      KEY: ({ key }) => key ?? '',
      MODEL: ({ model }) => model ?? '',
      REQUESTS: ({ requests }) => String(requests),
      PROMPT: ({ prompt }) => String(prompt),
      CACHED: ({ cached }) => String(cached),
      OUTPUT: ({ output }) => String(output),
      COST: ({ cost }) => amount(cost),
    },
  )
  note('')
  out.list(
    used.devices.map((row) => ({ id: row.subject, ...row })),
    {
      DAY: ({ day }) => day,
      OF: ({ name }) => name,
      DEVICE: ({ device }) => device,
      HOURS: ({ hours }) => amount(hours),
      COST: ({ cost }) => amount(cost),
    },
  )
  note(`\nCost in all: ${amount(used.cost)}`)
}

const budgetColumns = {
  HOLDER: ({ key }: api.BudgetView) => (key === null ? 'the project' : `key ${key}`),
  PER: ({ per }: api.BudgetView) => per,
  TOKENS: ({ tokens }: api.BudgetView) => String(tokens ?? '-'),
  COST: ({ cost }: api.BudgetView) => String(cost ?? '-'),
  'DEVICE-HOURS': ({ device_hours }: api.BudgetView) => String(device_hours ?? '-'),
  ID: ({ id }: api.BudgetView) => id,
}

async function runBudgets({ client, out, project }: Session): Promise<void> {
  out.list((await client.call(api.listBudgets, { params: { project } })).items, budgetColumns)
}

async function runSetBudget({ client, out, project }: Session, flags: BudgetFlags): Promise<void> {
  const { key, per, tokens, cost, deviceHours } = flags
  const body = {
    per,
    ...(key !== undefined && { key }),
    ...(tokens !== undefined && { tokens }),
    ...(cost !== undefined && { cost }),
    ...(deviceHours !== undefined && { device_hours: deviceHours }),
  }
  out.list([await client.call(api.putBudget, { params: { project }, body })], budgetColumns)
}
