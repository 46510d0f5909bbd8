import { type Command, InvalidArgumentError } from 'commander'
import * as api from '../../api/control/machine-endpoints.ts'
import { completeWith, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { note } from '../terminal.ts'

interface EditFlags extends NounFlags {
  slots?: Record<string, number>
  open?: boolean
}

export function clusterCommand(program: Command): void {
  const noun = program.command('cluster').description('machines that jobs run on')
  onService(
    noun.command('list', { isDefault: true }).description('list them with their devices'),
    listClusters,
  )
  const edit = noun
    .command('edit')
    .description('set its devices, or whether it takes new jobs')
    .argument('<cluster>')
    .option('--slots <type=n>', 'so many devices of a type (repeatable; replaces them all)', slots)
    .option('--open', 'let it take new jobs')
    .option('--no-open', 'let it finish what it has, and take no more')
  onService(
    completeWith(edit, async ({ client }) =>
      (await client.call(api.listClusters, {})).items.map(({ name }) => name),
    ),
    editCluster,
  )
  onService(
    noun
      .command('give-up')
      .description('say that its machine is lost: its jobs and deployments go on elsewhere')
      .argument('<cluster>'),
    giveUp,
  )
}

async function giveUp({ client }: Session, _: NounFlags, cluster: string): Promise<void> {
  const { jobs, deployments } = await client.call(api.giveUpCluster, { params: { cluster } })
  note(`${cluster} is given up: ${jobs} jobs and ${deployments} deployments go on elsewhere.`)
}

function slots(text: string, before: Record<string, number> = {}): Record<string, number> {
  const match = /^([a-z0-9][a-z0-9._-]*)=(\d{1,5})$/i.exec(text)
  if (match === null) throw new InvalidArgumentError('It takes a type and a number, such as h100=8.')
  return { ...before, [match[1]!]: Number(match[2]) }
}

const columns = {
  NAME: ({ name }: { name: string }) => name,
  DEVICES: ({ slots: own, used }: { slots: Record<string, number>; used: Record<string, number> }) =>
    Object.entries(own)
      .map(([type, devices]) => `${used[type] ?? 0}/${devices} ${type}`)
      .join(', '),
  'NEW JOBS': ({ open, gone }: { open: boolean; gone: boolean }) =>
    gone ? 'no: it is gone' : open ? 'yes' : 'no',
  'LAST SEEN': ({ last_seen_at }: { last_seen_at: number | null }) => timeText(last_seen_at),
}

async function listClusters({ client, out }: Session): Promise<void> {
  out.list((await client.call(api.listClusters, {})).items, columns)
}

async function editCluster({ client, out }: Session, flags: EditFlags, cluster: string): Promise<void> {
  const body = {
    ...(flags.slots !== undefined && { slots: flags.slots }),
    ...(flags.open !== undefined && { open: flags.open }),
  }
  out.one(await client.call(api.editCluster, { params: { cluster }, body }), columns)
}

export function quotaCommand(program: Command): void {
  const noun = program.command('quota').description('how many devices of a type a project may use')
  onService(noun.command('list', { isDefault: true }).description('list those of the project'), listQuotas)
  onService(
    noun
      .command('set')
      .description('limit a type of devices')
      .argument('<device>')
      .argument('<devices>', 'how many at the same time', wholeNumber(0, 100_000)),
    async ({ client, project, out }, _: NounFlags, device: string, devices: number) => {
      const quota = await client.call(api.setQuota, { params: { project, device }, body: { devices } })
      if (out.isJson) line(JSON.stringify(quota))
      else note(`${project} may use ${devices} of ${device}.`)
    },
  )
  onService(
    noun.command('delete').description('take the limit away').argument('<device>'),
    async ({ client, project }, _: NounFlags, device: string) => {
      await client.call(api.deleteQuota, { params: { project, device } })
      note(`${project} may use any number of ${device}.`)
    },
  )
}

async function listQuotas({ client, project, out }: Session): Promise<void> {
  const { items } = await client.call(api.listQuotas, { params: { project } })
  out.list(items, {
    DEVICE: ({ device }) => device,
    ALLOWED: ({ devices }) => devices,
    USED: ({ used }) => used,
  })
}
