// SPDX-License-Identifier: MIT
pragma solidity ^0.8.37;

interface Permit2 {
    struct TokenPermissions { address token; uint256 amount; }
    struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
    struct SignatureTransferDetails { address to; uint256 requestedAmount; }

    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit, SignatureTransferDetails calldata details, address owner,
        bytes32 witness, string calldata witnessType, bytes calldata signature
    ) external;
}

interface Permits {
    function permit(address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external;
}

/// What a payer may sign beside a payment so that no gas is needed for the approval (EIP-2612).
struct Permit2612 { uint256 value; uint256 deadline; bytes32 r; bytes32 s; uint8 v; }

Permit2 constant PERMIT2 = Permit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);

abstract contract Proxy {
    error InvalidAmount();
    error InvalidDestination();
    error InvalidOwner();
    error PaymentTooEarly();
    error Permit2612AmountMismatch();

    event Settled();
    event SettledWithPermit();

    function _approve(Permit2612 calldata said, Permit2.TokenPermissions calldata permitted, address owner) internal {
        if (said.value != permitted.amount) revert Permit2612AmountMismatch();
        Permits token = Permits(permitted.token);
        // An allowance that is there already is as good: Permit2 checks it again.
        try token.permit(owner, address(PERMIT2), said.value, said.deadline, said.v, said.r, said.s) {} catch {}
    }

    function _pay(
        Permit2.PermitTransferFrom calldata permit, uint256 amount, address owner, address to, uint256 validAfter,
        bytes32 witness, string memory witnessType, bytes calldata signature
    ) internal {
        if (amount == 0) revert InvalidAmount();
        if (to == address(0)) revert InvalidDestination();
        if (owner == address(0)) revert InvalidOwner();
        if (block.timestamp < validAfter) revert PaymentTooEarly();
        Permit2.SignatureTransferDetails memory details = Permit2.SignatureTransferDetails(to, amount);
        PERMIT2.permitWitnessTransferFrom(permit, details, owner, witness, witnessType, signature);
    }
}

/// Stands where x402's proxy for `upto` stands, with its published functions: the facilitator that the payer named
/// may take what was used, up to what was signed.
contract UptoProxy is Proxy {
    struct Witness { address to; address facilitator; uint256 validAfter; }

    error AmountExceedsPermitted();
    error UnauthorizedFacilitator();

    string private constant WITNESS = "Witness(address to,address facilitator,uint256 validAfter)";
    string private constant TYPES =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";

    function settle(
        Permit2.PermitTransferFrom calldata permit, uint256 amount, address owner, Witness calldata witness,
        bytes calldata signature
    ) external {
        _settle(permit, amount, owner, witness, signature);
        emit Settled();
    }

    function settleWithPermit(
        Permit2612 calldata permit2612, Permit2.PermitTransferFrom calldata permit, uint256 amount, address owner,
        Witness calldata witness, bytes calldata signature
    ) external {
        _approve(permit2612, permit.permitted, owner);
        _settle(permit, amount, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settle(
        Permit2.PermitTransferFrom calldata permit, uint256 amount, address owner, Witness calldata witness,
        bytes calldata signature
    ) private {
        if (msg.sender != witness.facilitator) revert UnauthorizedFacilitator();
        if (amount > permit.permitted.amount) revert AmountExceedsPermitted();
        bytes32 named = keccak256(
            abi.encode(keccak256(bytes(WITNESS)), witness.to, witness.facilitator, witness.validAfter)
        );
        _pay(permit, amount, owner, witness.to, witness.validAfter, named, TYPES, signature);
    }
}

/// Stands where x402's proxy for `exact` over Permit2 stands: it takes just what was signed.
contract ExactProxy is Proxy {
    struct Witness { address to; uint256 validAfter; }

    string private constant WITNESS = "Witness(address to,uint256 validAfter)";
    string private constant TYPES =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)";

    function settle(
        Permit2.PermitTransferFrom calldata permit, address owner, Witness calldata witness, bytes calldata signature
    ) external {
        _settle(permit, owner, witness, signature);
        emit Settled();
    }

    function settleWithPermit(
        Permit2612 calldata permit2612, Permit2.PermitTransferFrom calldata permit, address owner,
        Witness calldata witness, bytes calldata signature
    ) external {
        _approve(permit2612, permit.permitted, owner);
        _settle(permit, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settle(
        Permit2.PermitTransferFrom calldata permit, address owner, Witness calldata witness, bytes calldata signature
    ) private {
        bytes32 named = keccak256(abi.encode(keccak256(bytes(WITNESS)), witness.to, witness.validAfter));
        _pay(permit, permit.permitted.amount, owner, witness.to, witness.validAfter, named, TYPES, signature);
    }
}
