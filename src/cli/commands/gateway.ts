import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { systemClock } from '../../base/clock.ts'
import { createLogger } from '../../base/log.ts'
import { readGatewayFile, watchGatewayFile } from '../../control/gateway/fleet-file.ts'
import { Ledger } from '../../control/gateway/ledger.ts'
import { modelNames, ReplicaTable } from '../../control/gateway/replicas.ts'
import { RequestLog } from '../../control/gateway/request-log.ts'
import { Gateway } from '../../control/gateway/server.ts'
import { ropewayHome } from '../home.ts'
import { type ListenFlags, listen, refuseOpenDoor, withListenOptions } from '../listening.ts'
import { shutdownSignal } from '../shutdown.ts'
import { bold, cyan, note } from '../terminal.ts'

interface GatewayFlags extends ListenFlags {
  usage?: string
  requestLog?: string
}

const defaultPort = 8700

export function gatewayCommand(program: Command): void {
  const command = program
    .command('gateway')
    .description('put several `ropeway serve` behind one address: replicas, keys, limits, usage, canaries')
    .argument('<file>', 'a JSON file of deployments and keys; it is read again when it changes')
    .option('--usage <folder>', 'where usage is written down (default: usage in the home of Ropeway)')
    .option('--request-log <folder>', 'where requests of deployments that are "logged" are written down')
  withListenOptions(command, defaultPort).action(runGateway)
}

async function runGateway(given: string, flags: GatewayFlags): Promise<void> {
  const path = resolve(given)
  let file = readGatewayFile(path)
  refuseOpenDoor(flags.host, [...file.callers.keys()], `Name keys in ${given}`)
  const stop = shutdownSignal()
  const table = new ReplicaTable(file.fleet)
  const ledger = new Ledger(flags.usage ?? join(ropewayHome(), 'usage'), systemClock)
  // Whether keys are asked for is settled at the start: a file that loses its keys must not open the door.
  const requestLog =
    flags.requestLog === undefined
      ? undefined
      : new RequestLog(resolve(flags.requestLog), systemClock, { onFault: note })
  const isKeyed = file.callers.size > 0
  const gateway = new Gateway({
    table,
    ledger,
    ...(isKeyed && { verify: (sha256: string) => file.callers.get(sha256) }),
    budgets: () => file.budgets,
    prices: () => file.prices,
    ...(requestLog !== undefined && { requestLog }),
    ...(flags.origin !== undefined && { origins: flags.origin }),
    log: createLogger('gateway'),
  })
  const unwatch = watchGatewayFile(
    path,
    (changed) => {
      file = changed
      table.replace(changed.fleet)
      note(`${given} was read again: ${changed.fleet.deployments.length} deployments.`)
    },
    (error) => note(`${error.message} What was read before stays in force.`),
  )
  try {
    const url = await listen(gateway, flags)
    note(`\nThe gateway answers at ${cyan(`${url}/v1`)}${isKeyed ? '' : ', without keys'}\n`)
    for (const deployment of file.fleet.deployments) note(`  ${bold(modelNames(deployment).join(', '))}`)
    note('\nCtrl-C stops it.')
    await stop.requested
    note('\nStopping: running requests finish, new ones are refused. Once more ends it now.')
    await gateway.close(flags.drainLimit * 1000)
    await requestLog?.flush()
  } finally {
    unwatch()
    ledger.close()
    stop.dispose()
  }
}
