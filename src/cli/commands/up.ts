import { type Command, Option } from 'commander'
import { collect, wholeNumber } from '../options.ts'
import { withDataOptions } from '../service-data.ts'
import type { UpFlags } from '../up-service.ts'

const defaultPort = 8600

export function upCommand(program: Command): void {
  const command = program
    .command('up')
    .description('run the service on this machine: projects, people, keys, data, jobs, models, deployments')
  withDataOptions(command)
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--port <n>', 'port to listen on; 0 takes a free one', wholeNumber(0, 65535), defaultPort)
    .option(
      '--gateway-port <n>',
      'port of the gateway, where deployments answer (default: 100 above --port)',
      wholeNumber(0, 65535),
    )
    .option(
      '--key-file <path>',
      'the key that encrypts credentials (default: secrets.key in the data folder)',
    )
    .option('--key-command <program>', 'a program that prints that key, from a key management service')
    .option('--replace-key', 'the former key is lost: go on with this one, and store credentials anew')
    .addOption(
      new Option('--sign-up <who>', 'who may make an account')
        .choices(['open', 'invited'])
        .default('invited'),
    )
    .option('--oidc <file>', 'an OpenID provider through which people may log in (docs/service.md)')
    .option(
      '--objects <place>',
      's3://BUCKET/PREFIX or a folder for large things (default: in the data folder)',
    )
    .option('--link-folder <folder>', 'a folder of this machine that may be linked (repeatable)', collect)
    .option(
      '--advertise <url>',
      'where other servers of the same database reach this one (default: where it listens)',
    )
    .option('--owner <email>', 'on the first start: the address of who runs the service')
    .option('--owner-key', 'make another key for who runs the service, print it and end')
    // What only a service needs, databases and web server, would make every other command start later.
    .action(async (flags: UpFlags) => await (await import('../up-service.ts')).runUp(flags))
}
