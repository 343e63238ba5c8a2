"""Masked rounds of devices that pin a registrar: whom they meet, and whom not."""

from palate.client.federation.masked_round import MaskedRound, MaskRules
from tests.client.federation.test_masked_round import refusal
from tests.shared.mask_cases import Round, identity, invitation
from tests.shared.pseudonym_cases import certificate, slot_key


def test_a_device_that_trusts_a_registrar_refuses_others_than_it_has_certified() -> None:
    def rules(device: int, given: bytes | None = None) -> MaskRules:
        own = certificate(identity(device).public_key().public_bytes_raw(), 1)
        return MaskRules(slot_key=slot_key(1), certificate=own if given is None else given)

    r = Round(3)
    others = certificate(identity(2).public_key().public_bytes_raw(), 2)
    copied = certificate(identity(1).public_key().public_bytes_raw(), 1)
    wrong = {"none": bytes(256), "of another slot": others, "another device's": copied}
    for certificates, reason in (({}, ""), *(({2: one}, "certificate") for one in wrong.values())):
        r.of = {
            n: MaskedRound(r.invited, identity=identity(n), rules=rules(n, certificates.get(n)))
            for n in range(3)
        }
        r.server = type(r.server)(r.invited, r.mask_settings, r.count)
        r.advertise()
        if reason:
            assert refusal(r.share) == reason
        else:
            total, _ = (r.share(), r.mask(), r.reveal())[2]
            assert (total == r.plain()).all()


def test_an_invitation_for_another_slot_than_the_certificate_is_refused() -> None:
    rules = MaskRules(slot_key=slot_key(2), certificate=bytes(256))
    assert refusal(lambda: MaskedRound(invitation(), identity=identity(0), rules=rules)) == "certificate"
