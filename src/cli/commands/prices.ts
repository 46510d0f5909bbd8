import type { Command } from 'commander'
import * as api from '../../api/control/usage.ts'
import { UserError } from '../../base/errors.ts'
import { readObjectFile } from '../job-file.ts'
import { completeWith, type NounFlags, onService, type Session } from '../noun.ts'
import { number } from '../options.ts'
import { line } from '../output.ts'
import { note } from '../terminal.ts'

interface SetFlags extends NounFlags {
  file?: string
  input?: number
  cached?: number
  output?: number
  perHour?: number
}

const amount = number(0, 1e12)

export function priceCommand(program: Command): void {
  const noun = program.command('price').description('what tokens and device-hours cost')
  onService(noun.command('list', { isDefault: true }).description('list them'), runList)
  onService(
    noun
      .command('set')
      .description('set the price of a model or a device; for who runs the service')
      .argument('[name]', 'a deployment, deployment:adapter, a device type, or * for all without one')
      .option('--input <amount>', 'a million input tokens of a model', amount)
      .option(
        '--cached <amount>',
        'a million input tokens that were in the cache (default: as input)',
        amount,
      )
      .option('--output <amount>', 'a million output tokens of a model', amount)
      .option('--per-hour <amount>', 'an hour of a device', amount)
      .option('-f, --file <path>', 'all prices, in YAML or JSON, instead of those there are'),
    runSet,
  )
  const remove = noun.command('delete').description('take a price away').argument('<name>')
  onService(completeWith(remove, names), runDelete)
}

function pricesOf({ client }: Session): Promise<api.Prices> {
  return client.call(api.showPrices, {})
}

async function names(session: Session): Promise<string[]> {
  const { models, devices } = await pricesOf(session)
  return [...models.map(({ model }) => model), ...devices.map(({ device }) => device)]
}

async function runList(session: Session): Promise<void> {
  show(session, await pricesOf(session))
}

function show({ out }: Session, prices: api.Prices): void {
  const { models, devices } = prices
  if (out.isJson) line(JSON.stringify(prices))
  else
    out.list(
      [
        ...models.map(({ model, ...price }) => ({ id: model, ...price })),
        ...devices.map(({ device, perHour }) => ({ id: device, perHour })),
      ] as ({ id: string } & Partial<api.Prices['models'][number]> & { perHour?: number })[],
      {
        OF: ({ id }) => id,
        'MILLION INPUT': ({ inputPerMillion }) => inputPerMillion,
        'MILLION CACHED': ({ cachedPerMillion }) => cachedPerMillion,
        'MILLION OUTPUT': ({ outputPerMillion }) => outputPerMillion,
        'DEVICE-HOUR': ({ perHour }) => perHour,
      },
    )
}

async function runSet(session: Session, flags: SetFlags, name: string | undefined): Promise<void> {
  const body =
    flags.file === undefined ? withPrice(await pricesOf(session), flags, name) : readObjectFile(flags.file)
  // The service says which field is not right.
  show(session, await session.client.call(api.replacePrices, { body: body as api.Prices }))
}

function withPrice(prices: api.Prices, flags: SetFlags, name: string | undefined): api.Prices {
  const { input, cached, output, perHour } = flags
  const isModel = input !== undefined && output !== undefined && perHour === undefined
  const isDevice =
    perHour !== undefined && input === undefined && output === undefined && cached === undefined
  if (name === undefined || (!isModel && !isDevice))
    throw new UserError('A price needs the name of what it is for, and how much.', {
      failure: 'usage',
      fix: 'Give NAME --input AMOUNT --output AMOUNT for a model, NAME --per-hour AMOUNT for a device, or -f FILE.',
    })
  if (isDevice)
    return {
      ...prices,
      devices: [...prices.devices.filter(({ device }) => device !== name), { device: name, perHour }],
    }
  const price = {
    ...{ model: name, inputPerMillion: input!, outputPerMillion: output! },
    ...(cached !== undefined && { cachedPerMillion: cached }),
  }
  return { ...prices, models: [...prices.models.filter(({ model }) => model !== name), price] }
}

async function runDelete(session: Session, _: NounFlags, name: string): Promise<void> {
  const { models, devices } = await pricesOf(session)
  const body = {
    models: models.filter(({ model }) => model !== name),
    devices: devices.filter(({ device }) => device !== name),
  }
  if (body.models.length + body.devices.length === models.length + devices.length)
    throw new UserError(`Nothing called ${name} has a price.`, {
      failure: 'not_found',
      fix: 'ropeway price lists them.',
    })
  await session.client.call(api.replacePrices, { body })
  note(`${name} costs nothing now.`)
}
