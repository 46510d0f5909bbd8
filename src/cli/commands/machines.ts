import { type Command, InvalidArgumentError } from 'commander'
import type { z } from 'zod'
import * as api from '../../api/control/machine-endpoints.ts'
import type { quotaView } from '../../api/control/machines.ts'
import { completeWith, confirm, meant, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { note } from '../terminal.ts'

type Quota = z.output<typeof quotaView>

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
  const named = (verb: string, description: string) =>
    completeWith(noun.command(verb).description(description).argument('<cluster>'), async ({ client }) =>
      (await client.call(api.listClusters, {})).items.map(({ name }) => name),
    )
  onService(named('view', 'show one'), async ({ client, out }, _: NounFlags, cluster: string) => {
    out.one(await client.call(api.viewCluster, { params: { cluster } }), columns)
  })
  onService(
    noun
      .command('create')
      .description('say which devices a cluster will have, before a server of it comes up')
      .argument('<name>')
      .requiredOption('--slots <type=n>', 'so many devices of a type (repeatable)', slots)
      .option('--no-open', 'let it take no jobs yet'),
    async ({ client, out }, flags: EditFlags, name: string) => {
      const body = { name, slots: flags.slots!, open: flags.open !== false }
      out.one(await client.call(api.createCluster, { body }), columns)
    },
  )
  onService(
    named('edit', 'set its devices, or whether it takes new jobs')
      .option('--slots <type=n>', 'so many devices of a type (repeatable; replaces them all)', slots)
      .option('--open', 'let it take new jobs')
      .option('--no-open', 'let it finish what it has, and take no more'),
    editCluster,
  )
  onService(
    named('give-up', 'say that its machine is lost: its jobs and deployments go on elsewhere'),
    giveUp,
  )
  onService(
    named('delete', 'forget one that runs nothing').option('-y, --yes', 'do not ask'),
    async ({ client }, flags: NounFlags, cluster: string) => {
      const { name } = await client.call(api.viewCluster, { params: { cluster } })
      await confirm(`Delete the cluster ${name}?`, flags)
      await client.call(api.deleteCluster, { params: { cluster } })
      note(`${name} is forgotten.`)
    },
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
  const devices = async (session: Session) => (await quotasOf(session)).map(({ device }) => device)
  const view = noun.command('view').description('show one').argument('<device>')
  onService(completeWith(view, devices), viewQuota)
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
    completeWith(noun.command('delete').description('take the limit away').argument('<device>'), devices),
    async ({ client, project }, _: NounFlags, device: string) => {
      await client.call(api.deleteQuota, { params: { project, device } })
      note(`${project} may use any number of ${device}.`)
    },
  )
}

const quotaColumns = {
  DEVICE: ({ device }: Quota) => device,
  ALLOWED: ({ devices }: Quota) => devices,
  USED: ({ used }: Quota) => used,
}

async function quotasOf({ client, project }: Session): Promise<Quota[]> {
  return (await client.call(api.listQuotas, { params: { project } })).items
}

async function listQuotas(session: Session): Promise<void> {
  session.out.list(await quotasOf(session), quotaColumns)
}

async function viewQuota(session: Session, _: NounFlags, typed: string): Promise<void> {
  const named = (await quotasOf(session)).map((quota) => ({ ...quota, name: quota.device }))
  session.out.one(meant(named, typed, 'quota'), quotaColumns)
}
