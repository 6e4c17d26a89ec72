# pop3.pl DOOR PORT CA USER PASSWORD ACTION FILE - one session of Perl's Net::POP3, for the tests.
#
# DOOR is tls or stls. ACTION is "leave" or "delete". Prints what it listed, one "NUMBER SIZE UIDL"
# a line, and writes the messages it fetched into FILE, one after the other. Talks to loopback only.
use strict;
use warnings;
use Net::POP3;

my ($door, $port, $ca, $user, $password, $action, $file) = @ARGV;
my %tls = (SSL_ca_file => $ca, SSL_verifycn_name => 'localhost');
my $pop = Net::POP3->new('localhost', Port => $port, Timeout => 20,
                         $door eq 'tls' ? (SSL => 1, %tls) : ())
    or die "no connection: $@\n";
if ($door eq 'stls') {
    $pop->starttls(%tls) or die 'no STLS: ', $pop->message;
}
my $count = $pop->login($user, $password);
defined $count or die 'no login: ', $pop->message;
my ($number, $octets) = $pop->popstat;
$number == $count or die "STAT says $number, login $count\n";
my $sizes = $pop->list or die 'no LIST: ', $pop->message;
my $names = $pop->uidl or die 'no UIDL: ', $pop->message;
my $sum = 0;
open my $out, '>', $file or die "$file: $!\n";
for my $n (sort { $a <=> $b } keys %$sizes) {
    print "$n $sizes->{$n} $names->{$n}\n";
    $sum += $sizes->{$n};
    $pop->list($n) == $sizes->{$n} or die "LIST $n differs\n";
    $pop->uidl($n) eq $names->{$n} or die "UIDL $n differs\n";
    my $top = $pop->top($n, 0) or die 'no TOP: ', $pop->message;
    my $lines = $pop->get($n) or die 'no RETR: ', $pop->message;
    $lines->[0] eq $top->[0] or die "TOP $n is of another message\n";
    print $out @$lines;
    if ($action eq 'delete') {
        $pop->delete($n) or die 'no DELE: ', $pop->message;
    }
}
$sum == $octets or die "STAT says $octets octets, LIST $sum\n";
close $out or die "$file: $!\n";
$pop->quit or die 'no QUIT: ', $pop->message;
